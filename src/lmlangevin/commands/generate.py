"""`lml generate`."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import TYPE_CHECKING, Any

import click

from lmlangevin.commands.controllers import controller_option, import_controller
from lmlangevin.commands.progress import progress_bars

if TYPE_CHECKING:
    from lmlangevin.generation import GenerateResult, RunResult

# Written out, because the tables that hold them import diffusers; a test keeps them equal.
SCHEDULER_NAMES = (
    "ddim, dpmpp-1, dpmpp-2m, dpmpp-3m, dpm-3, sde-dpmpp-2m, unipc, deis, pndm, euler, heun, flow-euler, flow-heun, "
    "flow-dpmpp-2m, flow-unipc"
)


# Names of diffusers' methods without `enable_`; likewise written out.
MEMORY = ("attention-slicing", "vae-slicing", "vae-tiling", "model-cpu-offload", "sequential-cpu-offload")

MISTAKE = 2
INTERRUPTED = 130
TERMINATED = 143


class Interrupted(click.exceptions.Abort):
    """The user, or the machine, has stopped a job; `lml` ends with this message and exit code."""

    def __init__(self, code: int) -> None:
        super().__init__()
        self.message = "interrupted; what was finished is kept: give --resume to go on."
        self.code = code


def _flag(name: str) -> str:
    return f"enable_{name.replace('-', '_')}"


def _memory_options(command: Callable[..., Any]) -> Callable[..., Any]:
    for name in reversed(MEMORY):
        command = click.option(f"--enable-{name}", is_flag=True, help="As in diffusers, to save memory.")(command)
    return command


@click.command(context_settings={"show_default": True})
@click.option(
    "--model",
    default="embedded",
    help="embedded, analytic-cifar10, scenes or scenes-flow (text to image), a pipeline's folder, or a hub id.",
)
@click.option(
    "--scheduler",
    default="",
    show_default=False,
    help=f"One of {SCHEDULER_NAMES}, or a scheduler class of diffusers.  [default: the model's own, or ddim]",
)
@click.option(
    "--steps",
    type=int,
    help="Steps of the sampler: one network evaluation each (pndm: one more; heun: two each but one).  [default: 8]",
)
@click.option("--nfe", type=int, help="Network evaluations of each image, in place of --steps.")
@click.option(
    "--langevin-steps",
    type=int,
    default=0,
    help="Langevin steps at each noise level; they count in --nfe, and the gain is then 0 if none is given.",
)
@click.option("--langevin-step-size", type=float, help="Their size, inside (0, 1).  [default: 0.2]")
@click.option("--num-images", type=int, help="Number of images.  [default: 64, or those of --prompt-file]")
@click.option("--batch-size", type=int, default=32, help="Images sampled at once; changes speed, not the images.")
@click.option("--seed", type=int, default=0, help="Image k starts from seed + k.")
@click.option("--timestep-spacing", help="Time grid: leading, trailing or linspace.  [default: the scheduler's]")
@click.option("--sigmas", help="Time grid by noise level instead: karras, exponential, beta or lu.")
@click.option("--flow-shift", type=float, help="Shift of a flow-matching grid.  [default: 3, or the pipeline's]")
@click.option("--gain", type=float, help="Strength of a constant LML; 0 is none.")
@click.option("--kappa", type=float, help="The paper's kappa in [-1, 1], in place of --gain.")
@click.option("--damping", type=float, help="The paper's damping, with --kappa.")
@click.option("--damping-mode", default="relative", help="Of --damping: relative, or absolute for the paper's lambda.")
@click.option("--placement", default="score", help="Where LML acts: score, or reference for the paper's.")
@click.option(
    "--control",
    help="constant, adaptive, calibrated, or an installed controller.  [default: adaptive, where it was measured]",
)
@controller_option
@click.option("--calibration", help="File of lml calibrate, or a name.  [default: the package's]")
@click.option("--rank", type=int, default=1, help="Number of previous predictions that LML uses.")
@click.option("--no-lml", is_flag=True, help="Run the plain sampler.")
@click.option("--compare", is_flag=True, help="Run plain and LML on the same seeds and draw one picture.")
@click.option("--release", help="With --compare, also measure the paper's release: DTYPE@LAMBDA.")
@click.option("--prompt", help="Text, for text-to-image models.")
@click.option("--prompt-file", help="A prompt a line, or a .csv or .json of captions; image k has prompt k.")
@click.option("--images-per-prompt", type=int, default=1, help="Images of each prompt of the file.")
@click.option("--negative-prompt", help="Text to stay away from.")
@click.option("--guidance-scale", type=float, help="Strength of guidance.  [default: the pipeline's]")
@click.option("--height", type=int, help="Of an image, in pixels.  [default: the pipeline's]")
@click.option("--width", type=int, help="The same.")
@click.option("--num-frames", type=int, help="Frames of a video, for models that make one.")
@click.option("--image", help="A picture to start from, or a folder with one a prompt.")
@click.option("--mask-image", help="What of it to paint anew (white).")
@click.option("--strength", type=float, help="How much of --image is noised away, up to 1.")
@click.option("--control-image", help="What a ControlNet follows (edges, depth, pose), or a folder.")
@click.option("--controlnet", help="Folder or hub id of a ControlNet to put into the model.")
@click.option("--lora", help="LoRA weights: a safetensors file, a folder, or a hub id.")
@click.option("--lora-scale", type=float, default=1.0, help="Weight of the LoRA.")
@click.option("--argument", "arguments", multiple=True, help="Another argument of the pipeline, as NAME=VALUE (JSON).")
@click.option("--variant", help="Variant of the weights, such as fp16.")
@_memory_options
@click.option("--dtype", default="float32", help="Of the network: float32, bfloat16 or float16.")
@click.option("--device", default="cpu", help="cpu, cuda, cuda:N or mps.")
@click.option("--compile", is_flag=True, help="Compile the network: a minute once, for long jobs.")
@click.option("--force", is_flag=True, help="Take a gain that turns images into noise.")
@click.option("--overwrite", is_flag=True, help="Replace an earlier job in the same folder.")
@click.option("--resume", is_flag=True, help="Go on with an earlier job in the same folder, or start one.")
@click.option("--out", required=True, help="Folder to write to, or a URL that fsspec knows.")
def generate(no_lml: bool, arguments: tuple[str, ...], **options: Any) -> None:
    """Generate images, a grid picture and a manifest that says how to make them again.

    Several processes may share the job: accelerate launch --multi_gpu --num_processes N -m lmlangevin generate ...
    """
    with _told_by_the_first(), interruptible():
        from lmlangevin.generation import GenerateConfig
        from lmlangevin.generation import generate as run_job
        from lmlangevin.generation.processes import join_processes

        processes = join_processes()
        options |= {"lml": not no_lml, "memory": tuple(name for name in MEMORY if options.pop(_flag(name)))}
        config: GenerateConfig = processes.together(lambda: _configure(arguments, **options))
        suffix = f"({processes.title})" if processes.count > 1 else ""
        with progress_bars(suffix, "images") if processes.first else contextlib.nullcontext() as progress:
            result = run_job(config, progress)
        if processes.first:
            _report(result, config.count)


def _configure(arguments: tuple[str, ...], controller: str | None, **options: Any) -> Any:
    from lmlangevin.core.errors import LMLError
    from lmlangevin.generation import GenerateConfig

    options["arguments"] = dict(map(_argument, arguments)) or None
    if (own := import_controller(controller)) is not None:
        if options["control"] not in (None, own):
            raise LMLError(
                f"control={options['control']!r} and controller={controller!r} exclude each other; give one."
            )
        options["control"] = own
    steps, nfe = options["steps"], options["nfe"]
    if steps is not None and nfe is not None:
        raise LMLError(f"steps={steps} and nfe={nfe} both choose the number of steps; give one of them.")
    return GenerateConfig(**options)


def _argument(text: str) -> tuple[str, Any]:
    """Return the name and the value of NAME=VALUE; a value that is no JSON is a text."""
    name, sign, value = text.partition("=")
    if not (sign and name.isidentifier()):
        raise click.BadParameter(f"argument={text!r} is no NAME=VALUE; give one such as true_cfg_scale=4.0")
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value


@contextlib.contextmanager
def _told_by_the_first() -> Iterator[None]:
    """Leave what happened to all processes to the first to tell; the others end with the same code."""
    try:
        yield
    except click.exceptions.Abort as stop:
        if _later():
            raise click.exceptions.Exit(getattr(stop, "code", INTERRUPTED)) from None
        raise
    except ValueError as error:
        from lmlangevin.generation.processes import AgreedError

        if _later() and isinstance(error, AgreedError):
            raise click.exceptions.Exit(MISTAKE) from None
        raise


def _later() -> bool:
    return os.environ.get("RANK", "0") != "0"


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """Tell how to go on when the job is interrupted, by Ctrl-C or by a polite kill."""
    code = INTERRUPTED

    def stop(number: int, frame: FrameType | None) -> None:
        nonlocal code
        del number, frame
        code = TERMINATED
        raise KeyboardInterrupt

    # A launcher ends its processes by this signal, and then they must not wait for each other.
    alone = "RANK" not in os.environ and threading.current_thread() is threading.main_thread()
    before = signal.signal(signal.SIGTERM, stop) if alone else None
    try:
        yield
    except KeyboardInterrupt:
        raise Interrupted(code) from None
    finally:
        if alone:
            signal.signal(signal.SIGTERM, before or signal.SIG_DFL)


def _report(result: GenerateResult, count: int) -> None:
    from lmlangevin.generation.store import shown

    for name, run in result.runs.items():
        click.echo(_run_line(name, run, count, result.processes))
    for note in result.notes:
        click.echo(note)
    if result.verdict is not None:
        click.echo(result.verdict)
    label = "Comparison" if "compare" in result.pictures else "Grid"
    click.echo(f"{label}: {shown(result.pictures.get('compare', result.pictures['grid']))}")
    click.echo(f"Manifest: {shown(result.manifest)}")


def _run_line(name: str, run: RunResult, count: int, processes: int) -> str:
    guidance = f" and {run.guidance_evaluations} for guidance" if run.guidance_evaluations else ""
    each = " a process" if processes > 1 else ""
    speed = f"{run.seconds:.1f} s, {count / run.seconds:.1f} images/s{each}" if run.seconds else "0 s"
    gain = "" if run.gain is None else f", gain {run.gain:g}"
    preset = run.scheduler.config.get("preset")
    source = f" (preset {preset})" if preset else ""
    noun = "image" if count == 1 else "images"
    return f"{name}: {count} {noun}, {run.nfe} network evaluations each{guidance}{gain}{source}, {speed}"
