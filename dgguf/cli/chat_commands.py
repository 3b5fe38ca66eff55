"""The commands of a chat, as /help tells them."""

COMMANDS = [
    ("/clear", "forget the conversation; the system message stays"),
    ("/history", "what was said"),
    ("/retry", "answer the last message again"),
    ("/set [NAME N]", "show, or set, the sampler's settings and max_tokens"),
    ("/view NAME", "how answers are shown: auto, text, grid, sudoku, plain, none"),
    ("/show", "the model, and how full its context is"),
    ("/system [TEXT]", "show, or set, the system message; /system - takes it away"),
    ("/think on|off", "let the model think before it answers"),
    ("/seed N|random", "the same seed repeats an answer"),
    ("/image FILE", "show the model an image with the next message; so does a pasted path"),
    ("/video FILE", "show it frames of a video"),
    ("/save FILE", "write the conversation as JSON"),
    ("/load FILE", "go on from such a file"),
    ("/export FILE", "draw the last answer: .gif, .svg, .html, .png, .mp4 …"),
    ("/stats", "what the last answer cost"),
    ("/exit", "end; so do /bye, exit and Ctrl-D"),
]
SYNONYMS = {"?": "help", "h": "help", "quit": "exit", "bye": "exit"}
