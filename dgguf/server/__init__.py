"""One loaded model for several clients over HTTP, in the form that OpenAI's clients speak.

errors.py    what a client is told, in OpenAI's form
worker.py    the one thread that computes: a bounded queue, turns at the borders of canvases
requests.py  what a client may send, checked
reply.py     folds an answer's events to text, thoughts and a reason to end
token_logs.py  how likely the tokens of its text are
answering.py  what every address that gives answers asks for and tells
exchange.py  streams, and errors in the form of who asked
drafts.py    a denoising step as a client sees it
happenings.py  what happens there, as the server's loop sees it
tools.py     declarations, calls and results of tools
decisions.py  /v1/decisions
completions.py  /v1/chat/completions, streamed and whole
text_completions.py  /v1/completions; holes.py: those with a suffix
responses.py  /v1/responses; response_input.py: what is sent there
ollama.py    /api/chat and /api/generate; ollama_requests.py: what is sent there; ollama_models.py: the others
guard.py     who may ask: Host, Origin, key, type and size of a body
app.py       the addresses
run.py       listens
"""
