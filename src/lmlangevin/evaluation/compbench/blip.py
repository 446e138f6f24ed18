"""BLIP answering yes or no, on transformers: the network behind BLIP-VQA.

It follows what the official script makes BLIP do, where transformers' classes would do otherwise:

- `BlipForQuestionAnswering.forward` returns no logits, so its three parts are called one after another.
- A question begins with [ENC], where transformers' tokenizer puts [CLS].
- The mask of the cross-attention is not heeded, so questions of one batch have equal lengths and none is padded.
- Images are 480x480; a checkpoint converted for 384x384 has its position embeddings interpolated.
- The vision transformer's layer norms have eps 1e-6, as in BLIP; the converted configuration has 1e-5.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lmlangevin.core.errors import LMLError
from lmlangevin.evaluation.extractors import check_device
from lmlangevin.evaluation.protocols import Protocol
from lmlangevin.evaluation.sources import read_image

RESOLUTION = 480
YES, NO = 2748, 2053
"""Tokens of the two answers in BERT's vocabulary."""

DECODE, ENCODE = 30522, 30523
"""Tokens that BLIP adds to it: [DEC] begins an answer and [ENC] a question."""

_MEAN = (0.48145466, 0.4578275, 0.40821073)
_SD = (0.26862954, 0.26130258, 0.27577711)
_VISION_EPS = 1e-6
_LONGEST = 35
_WORDS = 50
_DROPPED = re.compile(r'[.!"()*#:;~]')
ANY_IMAGE = Protocol("compbench", "callable", 2)


def prepare_question(question: str) -> str:
    """Return a question as BLIP's data loader does: small letters, without `.!"()*#:;~`, 50 words at most."""
    words = _DROPPED.sub("", question.lower()).rstrip(" ").split(" ")
    return " ".join(words[:_WORDS])


def prepare_image(path: Path, resolution: int = RESOLUTION) -> Tensor:
    """Read an image as BLIP takes it: RGB, Pillow's bicubic to a square whatever its shape, normalised.

    Args:
        path: an image file.
        resolution: side in pixels.

    Returns:
        float32, (3, resolution, resolution).

    Raises:
        LMLError: the file cannot be decoded, or has 32 bits a channel.
    """
    import numpy as np
    from PIL import Image

    stored = read_image(path, ANY_IMAGE, "samples")
    picture = Image.fromarray(stored.permute(1, 2, 0).numpy())
    pixels = np.asarray(picture.resize((resolution, resolution), Image.Resampling.BICUBIC), dtype=np.float32) / 255
    return (torch.from_numpy(pixels).permute(2, 0, 1) - torch.tensor(_MEAN)[:, None, None]) / torch.tensor(_SD)[
        :, None, None
    ]


class Blip:
    """A BLIP that gives the probability of yes.

    Args:
        model: a `BlipForQuestionAnswering`; it is put on the device, in float32, to evaluate.
        tokenizer: a `BertTokenizer` of BERT's vocabulary.
        name: what results call it.
        device: of the model.
        resolution: side in pixels of its images.

    Raises:
        LMLError: a vocabulary that is not BLIP's.
    """

    def __init__(
        self, model: Any, tokenizer: Any, *, name: str, device: str = "cpu", resolution: int = RESOLUTION
    ) -> None:
        size = model.config.text_config.vocab_size
        found = tokenizer.convert_tokens_to_ids(["yes", "no"])
        if size <= ENCODE or found != [YES, NO]:
            raise LMLError(
                f"blip_model {name!r}: has {size} tokens and 'yes' and 'no' at {found}, not BLIP's {ENCODE + 1} and "
                f"{[YES, NO]}; give a BLIP for VQA, such as Salesforce/blip-vqa-base"
            )
        self._model = model.to(device).float().eval().requires_grad_(False)
        self._tokenizer = tokenizer
        self._device = device
        self.name = name
        self.resolution = resolution
        self.weight_hash = _hash(model)

    def prepare(self, path: Path) -> Tensor:
        """Read an image for `probabilities`; see `prepare_image`."""
        return prepare_image(path, self.resolution)

    def token_ids(self, question: str) -> list[int]:
        """Return the tokens of a question, the first of them [ENC]; 35 at most."""
        ids = self._tokenizer(prepare_question(question), truncation=True, max_length=_LONGEST).input_ids
        return [ENCODE, *ids[1:]]

    @torch.no_grad()
    def probabilities(
        self, images: Tensor, questions: Sequence[Sequence[str]], batch_size: int = 16
    ) -> list[list[float]]:
        """Return P(yes) / (P(yes) + P(no)) for each question of each image, from the first step of the answer.

        Args:
            images: float32 (N, 3, resolution, resolution), from `prepare_image`.
            questions: N sequences of texts; an empty one is an image without questions.
            batch_size: questions at once; it changes speed and memory, and no value beyond rounding.

        Returns:
            N lists, each as long as the image's questions, of numbers in [0, 1].

        Raises:
            LMLError: the model gives a value that is not finite.
        """
        seen = self._model.vision_model(pixel_values=images.to(self._device), interpolate_pos_encoding=True)
        embeddings = seen.last_hidden_state
        groups: dict[int, list[tuple[int, int, list[int]]]] = defaultdict(list)
        for image, texts in enumerate(questions):
            for place, text in enumerate(texts):
                ids = self.token_ids(text)
                groups[len(ids)].append((image, place, ids))
        answers = [[0.0] * len(texts) for texts in questions]
        for group in groups.values():
            for start in range(0, len(group), batch_size):
                part = group[start : start + batch_size]
                values = self._yes(embeddings[[image for image, _, _ in part]], [ids for _, _, ids in part])
                for (image, place, _), value in zip(part, values, strict=True):
                    answers[image][place] = value
        return answers

    def _yes(self, embeddings: Tensor, ids: list[list[int]]) -> list[float]:
        tokens = torch.tensor(ids, device=self._device)
        encoded = self._model.text_encoder(
            input_ids=tokens, attention_mask=torch.ones_like(tokens), encoder_hidden_states=embeddings
        ).last_hidden_state
        start = torch.full((len(ids), 1), DECODE, device=self._device)
        logits = self._model.text_decoder(input_ids=start, encoder_hidden_states=encoded).logits[:, 0].float()
        # The ratio of the two softmax values, without the softmax, whose values may both be 0 in float32.
        values = torch.sigmoid(logits[:, YES] - logits[:, NO])
        if not bool(torch.isfinite(values).all()):
            raise LMLError(f"blip_model {self.name!r}: gives values that are not finite; give other weights")
        return values.tolist()


def load_blip(source: str, *, device: str = "cpu") -> Blip:
    """Load a BLIP for visual question answering, from safetensors.

    Args:
        source: a folder in transformers' format, or a hub id, such as `Salesforce/blip-vqa-base`.
        device: of the model.

    Raises:
        LMLError: no such device; it cannot be loaded, lacks weights, or is none of BLIP's networks.
    """
    check_device(device)
    from transformers import BertTokenizer, BlipConfig, BlipForQuestionAnswering

    with _loading(source):
        found, _ = BlipConfig.get_config_dict(source)
        if found.get("model_type") != "blip":  # without a file transformers takes its defaults
            raise OSError(f"it has no config.json of a BLIP, but of {found.get('model_type')!r}")
        config: Any = BlipConfig.from_pretrained(source)
    text = config.text_config
    if text.hidden_size == 768 and text.num_attention_heads != 12:
        # Early conversions have 8 in their configuration, which loads without a complaint and answers otherwise.
        raise LMLError(
            f"blip_model {source!r}: its text_config has {text.num_attention_heads} attention heads where BLIP has 12; "
            "download it again, or write 12 into its config.json"
        )
    config.vision_config.layer_norm_eps = _VISION_EPS
    with _loading(source):
        # Safetensors alone: other weight files are pickles, which can run code.
        loaded: Any = BlipForQuestionAnswering.from_pretrained(
            source, config=config, use_safetensors=True, output_loading_info=True
        )
        tokenizer = BertTokenizer.from_pretrained(source)
    model, info = loaded
    # transformers fills in random numbers for weights that a file does not have.
    missing = sorted(info["missing_keys"])
    if missing:
        raise LMLError(
            f"blip_model {source!r}: lacks {len(missing)} weights, such as {missing[0]}; give a BLIP for VQA, such as "
            "Salesforce/blip-vqa-base"
        )
    return Blip(model, tokenizer, name=source, device=device)


@contextlib.contextmanager
def _loading(source: str) -> Iterator[None]:
    """Keep transformers' bars and remarks off stderr while it loads, and tell in one line what goes wrong."""
    from transformers.utils import logging as remarks

    verbosity, shown = remarks.get_verbosity(), remarks.is_progress_bar_enabled()
    remarks.set_verbosity(logging.CRITICAL)
    remarks.disable_progress_bar()
    try:
        yield
    except Exception as error:  # transformers, the hub's client and safetensors raise what their libraries raise
        reason = " ".join(str(error).split())[:240] or type(error).__name__
        remedy = (
            "give a folder with config.json, model.safetensors and the tokenizer's files"
            if Path(source).is_dir()
            else f"check the name and the connection, or run 'hf download {source} --local-dir FOLDER' elsewhere and "
            "give --blip-model FOLDER"
        )
        raise LMLError(f"blip_model {source!r}: cannot be loaded ({reason}); {remedy}") from error
    finally:
        remarks.set_verbosity(verbosity)
        if shown:
            remarks.enable_progress_bar()


def _hash(model: Any) -> str:
    """Return the SHA-256 of all weights: their names, shapes and float32 bytes, in the order of their names."""
    digest = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        digest.update(f"{name} {tuple(value.shape)} ".encode())
        digest.update(value.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
