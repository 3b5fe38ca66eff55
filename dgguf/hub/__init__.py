"""Files of the Hugging Face hub: looked up in its cache, or downloaded into it.

huggingface_hub's are the requests' client (proxies, certificates), the token, the list of a repository's
files, the errors of the hub's answers, the lock and the bar; the cache has its layout, so that its tools
find our files and we find theirs. Three things of its `hf_hub_download` are done here instead:

- It begins anew after an interruption, as its unfinished files have names that no later run knows.
- It gets no further over a connection that breaks before 10 MB have come, calls itself once more for
  each loss, and takes 5xx for the end.
- It takes what the cache holds for whole, and never looks at a digest.

Files of more than 50 GB are still its own: the hub sends them by its protocol Xet alone.
"""

import os

# Else huggingface_hub tells the hub which programs run around us, whose list it fetches once a day.
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")

from dgguf.hub.cache import Removal, begun_bytes, cached, cached_like, damage, removal, room, unfinished
from dgguf.hub.download import begun_of, download
from dgguf.hub.repository import HubFile, choose, is_tower, parse_reference
from dgguf.hub.transfer import speed

__all__ = [
    "HubFile",
    "Removal",
    "begun_bytes",
    "begun_of",
    "cached",
    "cached_like",
    "choose",
    "damage",
    "download",
    "is_tower",
    "parse_reference",
    "removal",
    "room",
    "speed",
    "unfinished",
]
