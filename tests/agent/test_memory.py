"""What an agent holds in its memory."""

from __future__ import annotations

import json
import subprocess
import sys

from agent.memory import _as_their_files

MAPPINGS = """\
10000-20000 r--p 00000000 00:2a 1  /usr/lib/lib one.so
Rss:                  64 kB
Anonymous:             0 kB
20000-30000 r-xp 00010000 00:2a 1  /usr/lib/lib one.so (deleted)
Anonymous:             0 kB
30000-40000 r--p 00020000 00:2a 1  /usr/lib/one.so
Anonymous:             4 kB
40000-50000 rw-p 00030000 00:2a 1  /usr/lib/one.so
Anonymous:             0 kB
50000-60000 r--s 00000000 00:2a 2  /var/lib/places.mmdb
Anonymous:             0 kB
60000-70000 r-xp 00000000 00:00 0  [vdso]
Anonymous:             0 kB
70000-80000 r--p 00000000 00:00 0
Anonymous:             0 kB
"""
# what grpc and cryptography's start maps, what is left of it, and that both still work
GIVING_BACK = """
import json, re
import grpc
from cryptography.hazmat.primitives.asymmetric import ec
from agent.memory import release_code

def mapped_kb():
    return sum(int(kb) for kb in re.findall("RssFile:\\\\s+(\\\\d+)", open("/proc/self/status").read()))

before = mapped_kb()
count = release_code()
after = mapped_kb()
ec.generate_private_key(ec.SECP256R1())
grpc.insecure_channel("unix:/nowhere").close()
print(json.dumps([before, after, count]))
"""


def test_a_mapping_that_was_written_to_or_may_be_is_not_given_back():
    assert [*_as_their_files(MAPPINGS)] == [(0x10000, 0x20000), (0x20000, 0x30000)]


def test_code_that_only_the_start_ran_is_given_back_and_what_is_used_again_comes_back():
    done = subprocess.run((sys.executable, "-c", GIVING_BACK), capture_output=True, text=True, timeout=60, check=True)
    before, after, count = json.loads(done.stdout)
    assert count > 20
    assert after < before / 2
