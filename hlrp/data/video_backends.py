"""The libraries that can decode videos, by name, and whether they can be loaded here."""

from typing import Literal

from hlrp.errors import UserError

VideoBackend = Literal["pyav", "torchcodec"]


def require_backend(backend: VideoBackend) -> None:
    """Check that a decoder can be loaded here.

    Raises:
        UserError: It cannot; the message says why.
    """
    if backend == "pyav":
        return
    try:
        import torchcodec.decoders  # noqa: F401 - loads FFmpeg's libraries, or fails
    except (ImportError, OSError, RuntimeError) as error:
        missing = isinstance(error, ModuleNotFoundError)
        why = "it is not installed" if missing else "it finds no FFmpeg whose shared libraries it can load"
        raise UserError(
            f"torchcodec cannot decode here: {why}",
            where="data.video_backend / --video-backend",
            fix=("pip install torchcodec" if missing else "install FFmpeg 4 to 8 with its shared libraries")
            + ", or leave it out: PyAV brings its own FFmpeg",
        ) from error
