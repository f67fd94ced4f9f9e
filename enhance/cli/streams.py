"""Sound that comes as it goes: pipes, and microphone to loudspeaker."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NamedTuple

import typer

from enhance.cli import options
from enhance.errors import require

if TYPE_CHECKING:
    from enhance.device.engine import Choice
    from enhance.device.enhancer import Enhancer
    from enhance.device.offline import OfflineEnhancer


class Settings(NamedTuple):
    """What is enhanced with."""

    model: str
    num_threads: int
    strength: float
    atten_limit: float | None
    bandwidth: str
    engine: Choice = "auto"

    def open(self) -> Enhancer | OfflineEnhancer:
        """The model, with the settings in it."""
        from enhance.device.aligned_stream import wet_share
        from enhance.device.offline import open_model
        from enhance.device.upper_band import check_bandwidth

        wet_share(self.strength, self.atten_limit)  # refused before any work
        check_bandwidth(self.bandwidth)
        enhancer = open_model(self.model, self.num_threads, self.engine)
        enhancer.strength, enhancer.atten_limit = self.strength, self.atten_limit
        enhancer.bandwidth = self.bandwidth
        return enhancer


def run_piped(
    source: Path, target: Path | None, settings: Settings, *, force: bool, verbose: bool = False
) -> None:
    """``enhance run`` from standard input, or to standard output."""
    from enhance.device.enhancer import Enhancer
    from enhance.device.pipe import PIPE, clean_piped

    enhancer = settings.open()
    if verbose and isinstance(enhancer, Enhancer):
        _say([f"{enhancer.path.name}: engine {enhancer.engine}"])
    _say(clean_piped(source, target or PIPE, enhancer, force=force))


def _say(remarks: list[str]) -> None:
    for line in remarks:
        print(line, file=sys.stderr, flush=True)


def stream(
    rate: Annotated[int, typer.Option("-r", "--rate", help="Samples per second.")],
    form: Annotated[
        str, typer.Option("--format", metavar="s16le|s24le|s32le|f32le", help="Of a sample.")
    ] = "s16le",
    channels: Annotated[int, typer.Option("-c", "--channels", help="Number of channels.")] = 1,
    align: Annotated[
        bool, typer.Option("--align", help="Leave the model's delay out: as long as the input.")
    ] = False,
    model: options.Model = "default",
    num_threads: options.NumThreads = 1,
    strength: options.Strength = 1.0,
    atten_limit: options.AttenLimit = None,
    bandwidth: options.Bandwidth = "full",
    quiet: options.Quiet = False,
) -> None:
    """Clean raw samples, standard input to output, hop by hop.

    The output is late by the model's delay: it begins with silence, and is longer by it.

    ffmpeg -i IN -f s16le -ar 48000 -ac 1 - | enhance stream -r 48000 | ffmpeg -f s16le -ar 48000
    -i - OUT
    """
    from enhance.device.pipe import check_raw, clean_raw, latency, raw_pipes

    pipes = raw_pipes()
    enhancer = Settings(model, num_threads, strength, atten_limit, bandwidth).open()
    check_raw(enhancer, rate, form, channels)
    if not quiet:
        _say([f"enhance stream: {latency(enhancer, rate)}"])
    _say(clean_raw(enhancer, *pipes, rate, form, channels, align=align))


def live(
    devices: Annotated[bool, typer.Option("--list", help="List the devices and stop.")] = False,
    source: Annotated[
        str | None,
        typer.Option("-i", "--input", metavar="DEVICE", help="Number, or part of the name."),
    ] = None,
    sink: Annotated[
        str | None, typer.Option("-o", "--output", metavar="DEVICE", help="As --input.")
    ] = None,
    rate: Annotated[
        int | None, typer.Option("-r", "--rate", help="Of both.  [default: the input's]")
    ] = None,
    latency: Annotated[
        float, typer.Option(min=0.005, max=2, help="Seconds that each device may hold.")
    ] = 0.1,
    measure: Annotated[
        bool,
        typer.Option("--measure", help="Play a sweep, hear it, and tell the whole delay."),
    ] = False,
    seconds: Annotated[float, typer.Option(min=0, help="Stop after these; 0: never.")] = 0.0,
    model: options.Model = "default",
    num_threads: options.NumThreads = 1,
    strength: options.Strength = 1.0,
    atten_limit: options.AttenLimit = None,
    bandwidth: options.Bandwidth = "full",
    quiet: options.Quiet = False,
) -> None:
    """Clean a microphone, to a loudspeaker or virtual cable.

    Keys: b for bypass (as late as the cleaned sound is), + and - for the strength, q to quit. The
    delay shown is what buffers, model and resampling hold; --measure hears that of the devices too.
    """
    require("live", "sounddevice")
    from enhance.device.live import KEYS, device_list, measure_delay, run_live

    if devices:
        print(device_list())
        return
    enhancer = Settings(model, num_threads, strength, atten_limit, bandwidth).open()
    if measure:
        whole, own = measure_delay(
            enhancer, source=source, sink=sink, sample_rate=rate, latency=latency
        )
        print(f"delay {1000 * whole:.0f} ms, of which {1000 * own:.0f} ms are the devices'")
        return
    done = run_live(
        enhancer,
        source=source,
        sink=sink,
        sample_rate=rate,
        latency=latency,
        seconds=seconds,
        quiet=quiet,
        ready=lambda: None if quiet else _say([f"enhance live: {KEYS}"]),
    )
    if not quiet:
        _say([f"enhance live: {done}"])
