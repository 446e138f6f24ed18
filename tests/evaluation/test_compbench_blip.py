"""BLIP's yes and no on a tiny random network: against a slow computation in float64, and in closed form."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from click.testing import CliRunner
from PIL import Image
from torch import Tensor

from lmlangevin.cli import cli
from lmlangevin.core.errors import LMLError
from lmlangevin.evaluation.compbench import LABEL, blip
from lmlangevin.evaluation.compbench.blip import Blip, load_blip, prepare_image, prepare_question

YES, NO, DEC, ENC, SEP = 2748, 2053, 30522, 30523, 102
WORDS = {"?": 1029, "a": 1037, "red": 2417, "cube": 14291, "blue": 2630, "small": 2235, "bowl": 4605, "the": 1996}
MEAN, SD = np.array([0.48145466, 0.4578275, 0.40821073]), np.array([0.26862954, 0.26130258, 0.27577711])


def vocabulary() -> dict[str, int]:
    """BERT's size and the places of the tokens that matter; what else is there is filled in."""
    placed = {"[PAD]": 0, "[UNK]": 100, "[CLS]": 101, "[SEP]": SEP, "[MASK]": 103, "yes": YES, "no": NO, **WORDS}
    names = {place: word for word, place in placed.items()}
    return {names.get(place, f"[unused{place}]"): place for place in range(30522)}


def tiny_config(**text: Any) -> Any:
    from transformers import BlipConfig

    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
    return BlipConfig(
        text_config={**sizes, "encoder_hidden_size": 16, "max_position_embeddings": 40, "vocab_size": 30524, **text},
        vision_config={**sizes, "image_size": 64, "patch_size": 16},
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from transformers import BertTokenizer, BlipForQuestionAnswering

    torch.manual_seed(802)
    model = BlipForQuestionAnswering(tiny_config())
    with torch.no_grad():  # the vision part starts at 1e-10 otherwise, and every image would be the same
        for name, value in model.named_parameters():
            value.copy_(torch.randn_like(value) * 0.6 + ("norm" in name.lower() and name.endswith("weight")))
    path = tmp_path_factory.mktemp("blip") / "tiny"
    model.save_pretrained(path)
    BertTokenizer(vocab=vocabulary()).save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def tiny(folder: Path) -> Blip:
    return load_blip(str(folder))


@pytest.fixture
def pictures(tmp_path: Path) -> list[Path]:
    """Three pictures of three shapes."""
    generator = np.random.default_rng(801)
    paths = []
    for k, size in enumerate(((96, 64), (480, 480), (50, 70))):
        coarse = Image.fromarray(generator.integers(0, 256, (4, 4, 3), dtype=np.uint8))
        paths.append(tmp_path / f"{k}.png")
        coarse.resize(size, Image.Resampling.BICUBIC).save(paths[-1])
    return paths


def slow(folder: Path, path: Path, question: str) -> float:
    """P(yes) / (P(yes) + P(no)) of one question about one image, step by step in float64."""
    from transformers import BlipForQuestionAnswering

    model: Any = BlipForQuestionAnswering.from_pretrained(folder).double().eval()
    # A vision model of 480x480, with position embeddings that are interpolated here.
    for module in model.vision_model.modules():
        if isinstance(module, torch.nn.LayerNorm):
            module.eps = 1e-6
    positions = model.vision_model.embeddings.position_embedding.data
    grid = positions[:, 1:].reshape(1, 4, 4, 16).permute(0, 3, 1, 2)
    grid = (
        F.interpolate(grid, size=(30, 30), mode="bicubic", align_corners=False).permute(0, 2, 3, 1).reshape(1, 900, 16)
    )
    model.vision_model.embeddings.position_embedding.data = torch.cat((positions[:, :1], grid), 1)

    pixels = np.asarray(Image.open(path).convert("RGB").resize((480, 480), Image.Resampling.BICUBIC), dtype=np.float64)
    image = torch.from_numpy(((pixels / 255 - MEAN) / SD).transpose(2, 0, 1)[None])
    tokens = torch.tensor([[ENC, *(WORDS[word] for word in question.replace("?", " ?").split()), SEP]])
    with torch.no_grad():
        seen = model.vision_model(pixel_values=image).last_hidden_state
        read = model.text_encoder(input_ids=tokens, encoder_hidden_states=seen).last_hidden_state
        logits = model.text_decoder(input_ids=torch.tensor([[DEC]]), encoder_hidden_states=read).logits[0, 0].numpy()
    weights = np.exp(logits - logits.max())
    softmax = weights / weights.sum()
    return float(softmax[YES] / (softmax[YES] + softmax[NO]))


QUESTIONS = [("a red cube?", "the small blue bowl?", "cube?"), ("a blue bowl?",), ("the bowl?", "a red cube?")]


def test_the_probabilities_are_those_of_the_slow_computation(tiny: Blip, folder: Path, pictures: list[Path]) -> None:
    images = torch.stack([prepare_image(path) for path in pictures])
    assert images.shape == (3, 3, 480, 480)
    found = tiny.probabilities(images, QUESTIONS)
    assert [len(row) for row in found] == [3, 1, 2]
    values = []
    for path, texts, row in zip(pictures, QUESTIONS, found, strict=True):
        values += row
        assert row == pytest.approx([slow(folder, path, text) for text in texts], abs=2e-5)
    # A network that heeded neither image nor question would pass for one that is right.
    assert max(values) - min(values) > 0.05
    assert abs(found[0][0] - found[2][1]) > 1e-3


def test_a_batch_is_what_one_by_one_is(tiny: Blip, pictures: list[Path]) -> None:
    images = torch.stack([prepare_image(path) for path in pictures])
    together = tiny.probabilities(images, QUESTIONS, batch_size=16)
    for size in (1, 2):
        assert tiny.probabilities(images, QUESTIONS, batch_size=size) == [
            pytest.approx(row, abs=1e-6) for row in together
        ]
    for image, texts, row in zip(images, QUESTIONS, together, strict=True):
        assert tiny.probabilities(image[None], [texts])[0] == pytest.approx(row, abs=1e-6)
    assert tiny.probabilities(images, [(), ("cube?",), ()])[::2] == [[], []]


def test_questions_of_different_lengths_never_share_a_batch(
    tiny: Blip, pictures: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[int, int]] = []
    run = tiny._yes

    def watched(embeddings: Tensor, ids: list[list[int]]) -> list[float]:
        assert len({len(row) for row in ids}) == 1
        assert all(row[0] == ENC and row[-1] == SEP for row in ids)
        seen.append((len(ids), len(ids[0])))
        return run(embeddings, ids)

    monkeypatch.setattr(tiny, "_yes", watched)
    tiny.probabilities(torch.stack([prepare_image(path) for path in pictures]), QUESTIONS, batch_size=2)
    # Three questions have the six tokens of "[ENC] a red cube ? [SEP]", and one each has four, five and seven.
    assert sorted(seen) == [(1, 4), (1, 5), (1, 6), (1, 7), (2, 6)]


def test_a_decoder_that_knows_its_answer_gives_it(folder: Path, pictures: list[Path]) -> None:
    """With logits that are the bias alone, P(yes) is e^b / (e^b + 1) whatever is asked."""
    model = load_blip(str(folder))
    head = model._model.text_decoder.cls.predictions
    head.transform.LayerNorm.weight.zero_()
    head.transform.LayerNorm.bias.zero_()
    head.decoder.bias.fill_(7.0)
    head.decoder.bias[YES] = 1.5 + math.log(3)
    head.decoder.bias[NO] = 1.5
    images = torch.stack([prepare_image(path) for path in pictures])
    assert model.probabilities(images, QUESTIONS) == [pytest.approx([0.75] * len(row), abs=1e-6) for row in QUESTIONS]
    # Both softmax values are 0 in float32 here.
    head.decoder.bias[YES] = -500 + math.log(9)
    head.decoder.bias[NO] = -500
    assert model.probabilities(images[:1], [("cube?",)])[0] == pytest.approx([0.9], abs=1e-5)
    head.decoder.bias[YES] = math.nan
    with pytest.raises(LMLError, match="not finite; give other weights"):
        model.probabilities(images[:1], [("cube?",)])


def test_a_long_question_is_cut_where_the_official_script_cuts_it(tiny: Blip) -> None:
    ids = tiny.token_ids("red " * 60 + "cube?")
    assert len(ids) == 35 and ids[0] == ENC and ids[-1] == SEP
    assert set(ids[1:-1]) == {WORDS["red"]}
    assert tiny.token_ids("A red cube?") == [ENC, WORDS["a"], WORDS["red"], WORDS["cube"], WORDS["?"], SEP]


@pytest.mark.parametrize(
    ("question", "prepared"),
    [
        ("The Red Cube?", "the red cube?"),
        ('a Rubik\'s cube (3x3): "new"; #1*~!?', "a rubik's cube 3x3 new 1?"),
        ("11:44.?", "1144?"),
        ("word " * 60, "word " * 49 + "word"),
    ],
)
def test_questions_are_prepared_as_by_blips_loader(question: str, prepared: str) -> None:
    assert prepare_question(question) == prepared


def test_a_plain_picture_has_the_pixels_of_the_formula(tmp_path: Path) -> None:
    Image.new("RGB", (37, 91), (10, 128, 255)).save(tmp_path / "plain.png")
    pixels = prepare_image(tmp_path / "plain.png")
    assert pixels.dtype == torch.float32
    expected = (np.array([10, 128, 255]) / 255 - MEAN) / SD
    assert np.allclose(pixels.numpy(), expected[:, None, None], atol=1e-6)
    (tmp_path / "broken.png").write_text("no image")
    with pytest.raises(LMLError, match="broken.png' cannot be decoded"):
        prepare_image(tmp_path / "broken.png")


# Loading ------------------------------------------------------------------------------------------------------------


def test_a_loaded_model_names_its_weights(tiny: Blip, folder: Path) -> None:
    assert tiny.name == str(folder) and tiny.resolution == 480
    assert len(tiny.weight_hash) == 64 and tiny.weight_hash == load_blip(str(folder)).weight_hash
    assert not any(value.requires_grad for value in tiny._model.parameters())
    norms = [m for m in tiny._model.vision_model.modules() if isinstance(m, torch.nn.LayerNorm)]
    assert norms and {norm.eps for norm in norms} == {1e-6}


def copied(folder: Path, target: Path) -> Path:
    shutil.copytree(folder, target)
    return target


def test_what_is_no_blip_for_questions_is_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(LMLError, match="device 'cuda:77': not there"):
        load_blip(str(folder), device="cuda:77")
    (tmp_path / "empty").mkdir()
    with pytest.raises(LMLError, match="cannot be loaded .*; give a folder with config.json, model.safetensors"):
        load_blip(str(tmp_path / "empty"))
    pickled = copied(folder, tmp_path / "pickled")
    (pickled / "model.safetensors").rename(pickled / "pytorch_model.bin")
    with pytest.raises(LMLError, match="cannot be loaded"):
        load_blip(str(pickled))


def test_weights_that_are_missing_are_not_made_up(folder: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    part = copied(folder, tmp_path / "part")
    state = load_file(part / "model.safetensors")
    kept = {name: value for name, value in state.items() if "text_encoder.encoder.layer.1" not in name}
    assert len(kept) < len(state)
    save_file(kept, part / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(LMLError, match=r"lacks \d+ weights, such as text_encoder.encoder.layer.1"):
        load_blip(str(part))


def test_the_wrong_number_of_heads_of_early_conversions_is_refused(folder: Path, tmp_path: Path) -> None:
    early = copied(folder, tmp_path / "early")
    content = json.loads((early / "config.json").read_text())
    content["text_config"] |= {"hidden_size": 768, "num_attention_heads": 8}
    (early / "config.json").write_text(json.dumps(content))
    with pytest.raises(LMLError, match="has 8 attention heads where BLIP has 12; download it again"):
        load_blip(str(early))


def test_another_vocabulary_is_refused(tiny: Blip) -> None:
    from transformers import BertTokenizer

    words = vocabulary()
    words["yes"], words["no"] = NO, YES
    with pytest.raises(LMLError, match=r"'yes' and 'no' at \[2053, 2748\], not BLIP's"):
        Blip(tiny._model, BertTokenizer(vocab=words), name="swapped")


def test_the_hub_is_asked_for_a_name_and_its_silence_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers import BlipConfig

    def unreachable(source: str) -> Any:
        raise OSError("We couldn't connect\n to the hub")

    monkeypatch.setattr(BlipConfig, "get_config_dict", unreachable)
    with pytest.raises(LMLError, match=r"\(We couldn't connect to the hub\); .*'hf download a/b --local-dir FOLDER'"):
        load_blip("a/b")


# The command on the tiny network ------------------------------------------------------------------------------------


class ByAnd:
    """Chunks are what stands between the word `and`."""

    name = "and"

    def __call__(self, prompt: str) -> list[str]:
        return prompt.rstrip(".").split(" and ")


def test_the_command_scores_images_with_a_blip_from_a_folder(
    folder: Path, tmp_path: Path, pictures: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    from lmlangevin.evaluation.compbench import chunks

    monkeypatch.setattr(chunks, "SpacyChunker", ByAnd)
    home = tmp_path / "save" / "tiny" / "color" / "lml"
    (home / "samples").mkdir(parents=True)
    prompts = ["a red cube and the bowl", "a blue bowl.", "the small cube and a red bowl and a cube"]
    for k, (path, prompt) in enumerate(zip(pictures, prompts, strict=True)):
        shutil.copy(path, home / "samples" / f"{prompt}_{k:06d}.png")
    out = tmp_path / "result.json"
    done = CliRunner().invoke(cli, ["compbench", "score", str(home), "--blip-model", str(folder), "--out", str(out)])
    assert (done.exit_code, done.stderr) == (0, "")

    expected = []
    for path, prompt in zip(pictures, prompts, strict=True):
        product = 1.0
        for chunk in prompt.rstrip(".").split(" and "):
            product *= round(slow(folder, path, f"{chunk}?"), 4)
        expected.append(product)
    rows = json.loads((home / "annotation_blip" / "vqa_result.json").read_text())
    assert [row["question_id"] for row in rows] == [0, 1, 2]
    assert all(isinstance(row["answer"], str) and len(row["answer"]) == 6 for row in rows)
    assert [float(row["answer"]) for row in rows] == pytest.approx(expected, abs=2e-4)
    mean = sum(float(row["answer"]) for row in rows) / 3
    assert f"BLIP-VQA {mean:.4f}, 3 images of 3 prompts" in done.stdout
    assert f"T2I-CompBench here: {LABEL}." in done.stdout.splitlines()
    content = json.loads(out.read_text())
    assert content["label"] == LABEL and {"torch", "transformers", "lmlangevin"} <= set(content["versions"])
    row = content["results"][0]
    assert row["mean"] == pytest.approx(mean) and row["chunker"] == "and" and row["resolution"] == 480
    assert row["weight_hash"] == load_blip(str(folder)).weight_hash and row["seeds"] is None
    assert blip.RESOLUTION == 480
