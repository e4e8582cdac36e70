"""What is seen of an exit through its tunnel: where its traffic comes out, who resolves its names, how far and how fast it is."""
