"""Tiny models that read images: a text model whose template knows them, and its tower beside it."""

from dataclasses import replace
from pathlib import Path

from tests.support.synthetic.tower import TINY_TOWER, with_text_size, write_tower
from tests.support.synthetic.vocabulary import seeing_vocabulary
from tests.support.synthetic.writer import TINY, write_model

TEMPLATE = Path(__file__).parents[1] / "data" / "chat_template.jinja"
# A full layer before the last, whose keys and values alone are kept; a window shorter than an image.
GEOMETRY = replace(TINY, block_count=4, full_every=2, sliding_window=8, canvas_length=8, context_length=2048)


def write_seeing_model(
    folder,
    geometry=GEOMETRY,
    tower=TINY_TOWER,
    seed=3,
    type_name="F32",
    tower_type="F32",
    videos=True,
    **options,
):
    """Write model.gguf and mmproj.gguf into a folder; the path of the first is returned.

    Args:
        videos: whether the vocabulary has a token for them.
        options: of `write_tower`.
    """
    template = {"tokenizer.chat_template": TEMPLATE.read_text(encoding="utf-8")}
    model = folder / "model.gguf"
    write_model(model, geometry, type_name, seed, seeing_vocabulary(videos=videos), metadata=template)
    tower = with_text_size(tower, geometry.embedding_length)
    write_tower(folder / "mmproj.gguf", tower, tower_type, seed, **options)
    return model
