"""The torch twin that the demo is trained with computes what dgguf computes from its checkpoint."""

from dataclasses import replace

import numpy as np
import pytest

from dgguf.diffusion.settings import SamplerSettings
from dgguf.model.canvas import Canvas
from dgguf.session import Session

pytestmark = [pytest.mark.oracle, pytest.mark.filterwarnings("ignore")]


@pytest.fixture
def twin():
    torch = pytest.importorskip("torch")
    from tools.demo.network import Sizes, Twin
    from tools.demo.vocabulary import make_vocabulary

    small = {"hidden": 64, "n_layers": 3, "head_dim": 16, "head_dim_full": 32, "ff": 48, "expert_ff": 32}
    sizes = Sizes(len(make_vocabulary().tokens), window=24, canvas=32, context=256, **small)
    twin = Twin(sizes, 3, torch.float32, fused=False)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in twin.parameters():  # what starts at 1 would hide that it is left out
            parameter.mul_(1 + 0.2 * torch.randn(parameter.shape, generator=generator))
    return twin


def random_ids(twin, *shape):
    return np.random.default_rng(2).integers(10, twin.sizes.vocab_size, shape)


def test_dgguf_computes_the_same_from_the_checkpoint(twin, tmp_path):
    import torch

    from tools.demo.checkpoint import write_checkpoint, write_gguf

    write_checkpoint(twin, tmp_path / "small")
    write_gguf(tmp_path / "small", tmp_path / "small.gguf", "F32")
    prompt, canvas = random_ids(twin, 1, 20), random_ids(twin, 1, 32)
    with torch.no_grad():
        ids = torch.from_numpy(prompt), torch.from_numpy(canvas)
        first = twin.logits(*ids)
        second = twin.logits(*ids, twin.signal(first, torch.full((1, 1, 1), 0.7)))
        # A prompt padded on the left is the same prompt.
        padded = torch.cat((torch.full((1, 5), -1), ids[0]), 1)
        np.testing.assert_allclose(twin.logits(padded, ids[1]), first, atol=1e-4)
    with Session(tmp_path / "small.gguf", exact=True) as session:
        cache = session.conversation().cache
        session.model.encode(prompt[0], cache)
        found = session.backend.to_host(session.model.logits(Canvas(canvas[0]), cache, None))
        np.testing.assert_allclose(found, first[0].numpy(), atol=1e-4)
        draws = np.full(32, 0.5)
        previous = session.model.denoise(Canvas(canvas[0]), cache, None, 0.7, draws)
        found = session.backend.to_host(session.model.logits(Canvas(canvas[0]), cache, previous))
        np.testing.assert_allclose(found, second[0].numpy(), atol=1e-4)
    assert float((second - first).abs().max()) > 0.1
    settings = session.settings()
    assert (settings.entropy_bound, settings.confidence_threshold) == (
        0.5,
        0.01,
    )  # else the release's
    assert replace(settings, entropy_bound=0.1, confidence_threshold=0.005) == SamplerSettings()
    assert session.encode("Hello").tolist() == session.tokenizer.encode(
        "<bos><|turn>user\nHello<turn|>\n<|turn>model\n<|channel>thought\n<channel|>", special=True
    )


def test_transformers_loads_the_checkpoint(twin, tmp_path):
    import torch

    transformers = pytest.importorskip("transformers")
    from tools.demo.checkpoint import write_checkpoint

    write_checkpoint(twin, tmp_path / "small")
    config = transformers.DiffusionGemmaConfig.from_pretrained(tmp_path / "small")
    tiny = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 1}
    for name, value in (tiny | {"num_key_value_heads": 1, "head_dim": 16}).items():
        setattr(config.vision_config, name, value)  # a vision tower, which the checkpoint has not
    model, report = transformers.DiffusionGemmaForBlockDiffusion.from_pretrained(
        tmp_path / "small", config=config, output_loading_info=True, dtype=torch.float32
    )
    assert not report["unexpected_keys"]
    assert all("vision" in name for name in report["missing_keys"])
    prompt, canvas = (torch.from_numpy(random_ids(twin, 1, n)) for n in (20, 32))
    cache = transformers.DynamicCache(config=model.config.get_text_config(decoder=True))
    with torch.no_grad():
        model.model.encoder(input_ids=prompt, past_key_values=cache, position_ids=torch.arange(20)[None])
        out = model(
            decoder_input_ids=canvas,
            past_key_values=cache,
            decoder_position_ids=torch.arange(20, 52)[None],
        )
        np.testing.assert_allclose(out.logits, twin.logits(prompt, canvas), atol=1e-4)


def test_full_layers_turn_a_quarter_also_where_all_heads_are_of_one_size(twin):
    import torch

    sliding, full = (twin._turns(16, full, 8, torch.device("cpu")) for full in (False, True))
    assert not torch.equal(sliding[0], full[0])
    assert torch.equal(full[0][:, :, 2:], torch.ones(8, 1, 6))


def test_one_step_of_muon_is_orthogonal_and_training_learns(twin):
    import torch

    from tools.demo.optimizer import make_optimizers, orthogonalized

    stack = orthogonalized(torch.randn(2, 24, 40, generator=torch.Generator().manual_seed(0)))
    singular = torch.linalg.svdvals(stack)
    assert 0.6 < float(singular.min()) < float(singular.max()) < 1.3
    optimizers = make_optimizers(twin.named())
    trained = {id(p) for optimizer in optimizers for p in optimizer.param_groups[0]["params"]}
    assert trained == {id(p) for p in twin.parameters()}
    prompt, canvas = (torch.from_numpy(random_ids(twin, 2, n)) for n in (8, 32))
    losses = []
    for _ in range(8):
        signal = twin.signal(torch.zeros(2, 32, twin.sizes.vocab_size), torch.ones(2, 1, 1))
        each, balance = twin.loss(prompt, canvas, signal, canvas)
        (each.mean() + 0.01 * balance).backward()
        for optimizer, rate in zip(optimizers, (0.01, 1e-3), strict=True):
            optimizer.param_groups[0]["lr"] = rate
            optimizer.step()
            optimizer.zero_grad()
        losses.append(float(each.mean().detach()))
    assert losses[-1] < losses[0] - 1
