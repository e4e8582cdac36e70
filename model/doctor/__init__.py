"""The checks of `exitplane doctor`. Pure: facts become findings, and others gather the facts."""
