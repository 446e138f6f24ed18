"""Look through diffusers' pipelines for those that use their scheduler in a way that a correction might not survive.

    python tools/pipeline_audit.py

LML keeps predictions from step to step, so it needs one call of `step` a timestep, in order, with the predictions of
one trajectory. Most pipelines have one such call in one loop. This reads the source of all and lists those that do
anything else. Each is either refused by the package (`lmlangevin.schedulers.refused`) or in `REVIEWED` with the reason
why it is safe; `tests/pipelines/test_audit.py` fails for one that is neither, as a new release of diffusers may bring.
"""

from __future__ import annotations

import ast
import importlib.util
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path

_CHUNKS = "each part of the sequence is a run of its own, with set_timesteps at its start, which clears the history"
_FREE_INIT = "the outer loop is FreeInit's, which sets the timesteps at the start of every pass"
_COPIES = "every stream steps a copy of the scheduler, and a copy has a history of its own"
_SLICES = "the same part of the sample is stepped every time; the rest is a fixed condition"
_UNCLIP = "prev_timestep is the next entry of the plan, which is what UnCLIPScheduler needs to be told"
_CONFIG = "it mends a key of the configuration before the first run"
_NO_SCHEDULER = "it has no component of the name `scheduler`, so that apply_lml says that there is nothing to correct"
_TOKEN_LEVELS = (
    "condition tokens have levels of their own and are put back after the step; the predictions stay in order. The "
    "adaptive control, which knows one level a step, refuses the argument"
)

REVIEWED: dict[str, str] = {
    "AnimateDiffControlNetPipeline": _FREE_INIT,
    "AnimateDiffPAGPipeline": _FREE_INIT,
    "AnimateDiffPipeline": _FREE_INIT,
    "AnimateDiffSDXLPipeline": _FREE_INIT,
    "AnimateDiffSparseControlNetPipeline": _FREE_INIT,
    "AnimateDiffVideoToVideoControlNetPipeline": _FREE_INIT,
    "AnimateDiffVideoToVideoPipeline": _FREE_INIT,
    "BriaFiboEditPipeline": _SLICES,
    "ChronoEditPipeline": (
        "it drops frames in the middle of a run, from the latents and from UniPC's memory; LML sees another shape and "
        "starts its history afresh"
    ),
    "Cosmos2_5_TransferPipeline": _CHUNKS,
    "Cosmos3OmniPipeline": _COPIES,
    "DDIMPipeline": "it replaces its scheduler by a plain DDIM one when it is built; apply_lml comes after that",
    "DanceDiffusionPipeline": "it casts the timesteps to the network's dtype, and their order stays",
    "FreeInitMixin": _FREE_INIT,
    "HeliosPipeline": _CHUNKS,
    "HeliosPyramidPipeline": _CHUNKS,
    "HunyuanVideoFramepackPipeline": _CHUNKS,
    "HunyuanVideoImageToVideoPipeline": _SLICES,
    "Kandinsky5I2IPipeline": _SLICES,
    "Kandinsky5I2VPipeline": _SLICES,
    "Kandinsky5T2IPipeline": _SLICES,
    "Kandinsky5T2VPipeline": _SLICES,
    "Kandinsky6SRPipeline": _CHUNKS,
    "Kandinsky6TI2VAPipeline": _COPIES,
    "KandinskyPriorPipeline": _UNCLIP,
    "KandinskyV22PriorEmb2EmbPipeline": _UNCLIP,
    "KandinskyV22PriorPipeline": _UNCLIP,
    "LTX2ConditionPipeline": _COPIES,
    "LTX2DFRPipeline": _COPIES,
    "LTX2DFRTemporalRefinePipeline": _COPIES,
    "LTX2HDRPipeline": _COPIES,
    "LTX2ImageToVideoPipeline": _COPIES,
    "LTX2InContextPipeline": _COPIES,
    "LTX2Pipeline": _COPIES,
    "LTXConditionPipeline": _TOKEN_LEVELS,
    "LTXI2VLongMultiPromptPipeline": _CHUNKS,
    "MarigoldDepthPipeline": _CHUNKS,
    "MarigoldIntrinsicsPipeline": _CHUNKS,
    "MarigoldNormalsPipeline": _CHUNKS,
    "PIAPipeline": _FREE_INIT,
    "PNDMPipeline": "it replaces its scheduler by a plain PNDM one when it is built; apply_lml comes after that",
    "RFD4ProteinaPipeline": _NO_SCHEDULER,
    "SanaWMLTX2Refiner": _CHUNKS,
    "SanaWMPipeline": _TOKEN_LEVELS,
    "SkyReelsV2DiffusionForcingImageToVideoPipeline": _COPIES,
    "SkyReelsV2DiffusionForcingPipeline": _COPIES,
    "SkyReelsV2DiffusionForcingVideoToVideoPipeline": _COPIES,
    "SpectrogramDiffusionPipeline": _CHUNKS,
    "StableCascadeDecoderPipeline": _CONFIG,
    "StableCascadePriorPipeline": _CONFIG,
    "StableDiffusionPanoramaPipeline": (
        "it swaps the scheduler's whole state for that of the view that it steps, LML's history with it"
    ),
    "StableUnCLIPPipeline": "the prior has a scheduler of its own, which apply_lml leaves alone",
    "TextToVideoZeroPipeline": (
        "it goes on from a copy of the scheduler with more frames than before; LML sees another shape and starts its "
        "history afresh"
    ),
    "TextToVideoZeroSDXLPipeline": (
        "it goes on from a copy of the scheduler with more frames than before; LML sees another shape and starts its "
        "history afresh"
    ),
    "UnCLIPImageVariationPipeline": _NO_SCHEDULER,
    "UnCLIPPipeline": _NO_SCHEDULER,
    "WanAnimatePipeline": _CHUNKS,
}
"""Pipelines that use their scheduler in an unusual way and are safe, and why."""

_USUAL_ARGUMENTS = {"model_output", "timestep", "sample", "generator", "eta", "return_dict"}
_QUERIES = {"set_timesteps", "set_begin_index", "index_for_timestep"}
"""Methods whose names hold "step" and that take none."""
_HARMLESS = {
    "getattr",
    "hasattr",
    "isinstance",
    "len",
    "retrieve_timesteps",
    "self.prepare_latents",
    "type",
}
"""Functions that are given a scheduler to ask it something, or to set its timesteps."""
_LOOPS = (ast.For, ast.While, ast.AsyncFor)


def pipeline_folder() -> Path:
    """Return the folder of the installed diffusers' pipelines, without importing it."""
    spec = importlib.util.find_spec("diffusers")
    if spec is None or spec.origin is None:
        raise RuntimeError("diffusers is not installed; pip install diffusers.")
    return Path(spec.origin).parent / "pipelines"


def scan(folder: Path) -> dict[str, list[str]]:
    """Find what is unusual about the pipelines of a folder.

    Args:
        folder: A folder of Python files, searched to any depth.

    Returns:
        The name of every class that uses a scheduler, and what was found: an empty list where there is one call of
        `self.scheduler.step` in one loop of `__call__`, with the usual arguments.
    """
    found: dict[str, list[str]] = {}
    for path in sorted(folder.rglob("*.py")):
        text = path.read_text(encoding="utf-8")
        lines = text.lower().splitlines()
        for item in ast.parse(text).body:
            if isinstance(item, ast.ClassDef):
                # Most methods have nothing to do with the scheduler, and walking them takes most of the time.
                item.body = [part for part in item.body if _mentions(lines[part.lineno - 1 : part.end_lineno])]
                remarks = _remarks(item)
                if remarks is not None:
                    found[item.name] = sorted(remarks)
    return found


def _mentions(lines: list[str]) -> bool:
    return any("scheduler" in line or "retrieve_timesteps" in line for line in lines)


def _remarks(cls: ast.ClassDef) -> set[str] | None:
    parents = _parents(cls)
    calls = [node for node in parents if isinstance(node, ast.Call)]
    steps = [call for call in calls if _method(call) == "step"]
    settings = [
        call for call in calls if _method(call) == "set_timesteps" or _dotted(call.func) == "retrieve_timesteps"
    ]
    remarks = {remark for call in calls for remark in _of_call(call)}
    remarks |= {remark for node in parents for remark in _of_assignment(node)}
    if not steps and not settings and not remarks:
        return None
    paths = [_path(call, parents) for call in steps]
    remarks |= {remark for call, path in zip(steps, paths, strict=True) for remark in _of_step(call, path)}
    if any(not _exclusive(one, other) for one, other in combinations(paths, 2)):
        remarks.add("steps in several places")
    if any(isinstance(node, _LOOPS) for call in settings for node in _path(call, parents)):
        remarks.add("sets the timesteps in a loop")
    if not steps:
        remarks.add("never steps")
    return remarks


def _parents(root: ast.AST) -> dict[ast.AST, ast.AST]:
    """Return every node below one, with the node that it hangs on."""
    parents: dict[ast.AST, ast.AST] = {}
    left = [root]
    while left:
        node = left.pop()
        for child in ast.iter_child_nodes(node):
            parents[child] = node
            left.append(child)
    return parents


def _path(node: ast.AST, parents: dict[ast.AST, ast.AST]) -> list[ast.AST]:
    """Return the nodes from the root to a node, with both."""
    path = [node]
    while path[-1] in parents:
        path.append(parents[path[-1]])
    return path[::-1]


def _is_scheduler(node: ast.AST) -> bool:
    names = (getattr(part, "id", None) or getattr(part, "attr", "") for part in ast.walk(node))
    return any("scheduler" in str(name).lower() for name in names)


def _dotted(node: ast.AST) -> str:
    """Return a plain name such as `self.scheduler` as text, and nothing for anything else."""
    if isinstance(node, ast.Name):
        return node.id
    return f"{_dotted(node.value)}.{node.attr}" if isinstance(node, ast.Attribute) else ""


def _method(call: ast.Call) -> str | None:
    """Return the name of the scheduler's method that is called, None for any other call."""
    return call.func.attr if isinstance(call.func, ast.Attribute) and _is_scheduler(call.func.value) else None


def _of_call(call: ast.Call) -> Iterator[str]:
    method, function = _method(call), _dotted(call.func)
    if method is not None and "step" in method and method != "step" and method not in _QUERIES:
        yield f"steps by {method}()"
    if method == "register_to_config":
        yield "writes to its scheduler's configuration"
    given = (*call.args, *(keyword.value for keyword in call.keywords))
    if "copy" in function and any(_is_scheduler(value) for value in given):
        yield "copies its scheduler"
    elif (
        "self.scheduler" in map(_dotted, given)
        and function not in _HARMLESS
        and not function.endswith("prepare_latents")
    ):
        yield f"hands its scheduler to {function.removeprefix('self.')}()"


def _of_assignment(node: ast.AST) -> Iterator[str]:
    if not isinstance(node, ast.Assign | ast.AugAssign):
        return
    if isinstance(node.value, ast.Call) and _method(node.value) == "from_config":
        yield "rebuilds its scheduler"
    for target in node.targets if isinstance(node, ast.Assign) else [node.target]:
        for part in ast.walk(target):
            # _internal_dict is the configuration, which many pipelines mend for old models when they are built.
            if isinstance(part, ast.Attribute) and _is_scheduler(part.value) and part.attr != "_internal_dict":
                yield f"writes {ast.unparse(part)}"


def _of_step(call: ast.Call, path: list[ast.AST]) -> Iterator[str]:
    method = next(node.name for node in path if isinstance(node, ast.FunctionDef))
    if method != "__call__":
        yield f"steps in {method}()"
    loops = sum(isinstance(node, _LOOPS) for node in path)
    if loops != 1:
        yield "steps in nested loops" if loops else "steps in no loop"
    owner = ast.unparse(call.func.value) if isinstance(call.func, ast.Attribute) else ""
    if owner != "self.scheduler":
        yield f"steps {owner}"
    given = dict(zip(("model_output", "timestep", "sample"), call.args, strict=False))
    given |= {keyword.arg: keyword.value for keyword in call.keywords if keyword.arg is not None}
    for name in given.keys() - _USUAL_ARGUMENTS:
        yield f"passes {name} to step"
    if not isinstance(given.get("timestep"), ast.Name):
        yield "steps at a timestep that is no loop variable"
    for name in ("model_output", "sample"):
        if name in given and any(isinstance(part, ast.Subscript) for part in ast.walk(given[name])):
            yield f"steps a part of the {name}"


def _exclusive(one: list[ast.AST], other: list[ast.AST]) -> bool:
    """Return whether two paths part in the two branches of one condition."""
    depth = next((k for k, (a, b) in enumerate(zip(one, other, strict=False)) if a is not b), None)
    fork = None if depth is None else one[depth - 1]
    return isinstance(fork, ast.If) and {_branch(fork, path[depth]) for path in (one, other)} == {"body", "orelse"}


def _branch(condition: ast.If, child: ast.AST) -> str:
    return next((name for name in ("body", "orelse") if child in getattr(condition, name)), "test")


def main() -> None:
    """Print every unusual pipeline, what is unusual about it, and what was decided."""
    from lmlangevin.schedulers.refused import REFUSED_PIPELINES

    for name, remarks in sorted(scan(pipeline_folder()).items()):
        if remarks or name in REFUSED_PIPELINES:
            if name in REFUSED_PIPELINES:
                verdict = f"refused: {REFUSED_PIPELINES[name]}"
            else:
                verdict = f"safe: {REVIEWED[name]}" if name in REVIEWED else "NOT REVIEWED"
            print(f"{name}\n  {'; '.join(remarks) or 'nothing unusual'}\n  {verdict}")


if __name__ == "__main__":
    main()
