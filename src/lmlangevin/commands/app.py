"""`lml app`."""

from __future__ import annotations

import click


@click.command(context_settings={"show_default": True})
@click.option("--host", default="127.0.0.1", help="Address to bind to; 0.0.0.0 is every network of this machine.")
@click.option("--port", type=click.IntRange(0, 65535), default=7860, help="Its port.")
@click.option(
    "--model",
    "models",
    multiple=True,
    help="Offer this folder or hub id too, beside the package's own models; can be given several times.",
)
@click.option(
    "--any-model/--no-any-model",
    default=None,
    show_default=False,
    help="Let visitors name any folder or hub id.  [default: only where --host is this machine alone]",
)
@click.option("--max-steps", type=click.IntRange(1, 1000), default=50, help="The most steps of a run.")
@click.option("--max-images", type=click.IntRange(1, 10000), default=512, help="The most images of a run.")
@click.option("--max-side", type=click.IntRange(64, 8192), default=1024, help="Longest side of a pipeline's image.")
@click.option("--max-seconds", type=click.IntRange(1), default=600, help="A run is ended when it has taken so long.")
@click.option("--queue", type=click.IntRange(1), default=16, help="Runs that may wait for their turn.")
@click.option("--dtype", default="float32", help="Of the network: float32, bfloat16 or float16.")
@click.option("--device", default="cpu", help="cpu, cuda, cuda:N or mps.")
def app(
    host: str,
    port: int,
    models: tuple[str, ...],
    any_model: bool | None,
    max_steps: int,
    max_images: int,
    max_side: int,
    max_seconds: int,
    queue: int,
    dtype: str,
    device: str,
) -> None:
    """Open a page that shows plain and LML images of the same seeds side by side."""
    from lmlangevin.app.server import is_local, serve
    from lmlangevin.app.settings import Offer
    from lmlangevin.generation.checks import offered_models

    local = is_local(host)
    offer = Offer(
        models=(*offered_models(), *models),
        any_model=local if any_model is None else any_model,
        max_steps=max_steps,
        max_images=max_images,
        max_side=max_side,
        max_seconds=max_seconds,
        queue=queue,
        device=device,
        dtype=dtype,
    )
    if not local:
        click.echo(f"Whoever reaches {host} can use this machine; there is no password.", err=True)
        if offer.any_model:
            click.echo("Visitors may name any folder of it and any pipeline of the hub.", err=True)
    serve(offer, host=host, port=port, told=lambda address: click.echo(f"Page: {address} (Ctrl-C ends it)"))
