"""What a client is told when something cannot be done, in OpenAI's form."""

import logging
from typing import Any

from dgguf.errors import ConstraintError, DggufError, ImageError, PromptError, TokenizerError

_LOG = logging.getLogger(__name__)


class ApiError(DggufError):
    """An answer that is an error.

    Args:
        status: of HTTP.
        message: one sentence: what, where, what to do.
        kind: OpenAI's "type".
        code: OpenAI's, for programs; None for none.
        param: the field of the request that is wrong; None for none.
        headers: of the response.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        kind: str = "invalid_request_error",
        code: str | None = None,
        param: str | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.kind = kind
        self.code = code
        self.param = param
        self.headers = headers or {}

    def body(self) -> dict[str, Any]:
        """The JSON object of the response."""
        return {
            "error": {"message": str(self), "type": self.kind, "param": self.param, "code": self.code},
        }


def as_api_error(error: BaseException) -> ApiError:
    """Any failure as a client sees it: what was asked for is wrong, or the server failed."""
    match error:
        case ApiError():
            return error
        case ConstraintError():
            return ApiError(400, str(error), code="invalid_schema", param="response_format")
        case TokenizerError():
            _LOG.warning("%s", error)  # which names files of this machine
            return ApiError(400, "the model's chat template does not take these messages")
        case ImageError():
            return ApiError(400, str(error), code="invalid_image")
        case PromptError():
            return ApiError(400, str(error), code="invalid_prompt")
        case MemoryError():
            return ApiError(503, "the server has not enough memory for this", kind="server_error")
        case DggufError():
            _LOG.warning("%s", error)
    why = "the server's log says why" if isinstance(error, DggufError) else type(error).__name__
    return ApiError(500, f"the server failed: {why}", kind="server_error")
