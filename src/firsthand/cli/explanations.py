"""What `firsthand explain FH033` prints: why a mistake happens, and the ways out. docs/errors.md is made from this."""

EXPLANATIONS = {
    "FH001": (
        "The tokenizer and the model do not belong together: one has more entries than the other. An id without a "
        "row in the embedding would crash or mean another word, so nothing is guessed. Use the tokenizer.json "
        "that lies beside the weights."
    ),
    "FH002": (
        "A model sees at most context_length tokens at once, prompt and answer together. Shorten the prompt, ask "
        "for fewer tokens with --max-tokens, or train a model with a larger model.context_length."
    ),
    "FH004": (
        "The table has no column of the name that is needed. Name the column that holds the text: "
        "data.reading.text_column=NAME, or for texts with labels data.text=NAME data.label=NAME."
    ),
    "FH007": (
        "An adapter fits only the model it was trained on: the same number of layers, and the same widths. The message "
        "says where they differ."
    ),
    "FH008": (
        "The device asked for is not on this machine, or the installed torch was built without it. Run on the "
        "processor with train.device=cpu, or install the torch build for your GPU from pytorch.org."
    ),
    "FH009": "GPUs are counted from 0. Choose one of those that the message lists, or train.device=auto.",
    "FH011": (
        "A checkpoint is written beside the old ones before any of them is deleted, so there must be room for one "
        "more. Free space, keep fewer (train.keep=1), or write elsewhere (out=...)."
    ),
    "FH005": (
        "A row has a label that is not among the classes, often by a space or a capital letter. Mend the rows, or name "
        "all classes: data.labels=[...]. Two or more are needed."
    ),
    "FH006": (
        "A pattern for layers matched nothing. Patterns are names such as attention.q, mlp.up or head, with * for "
        "anything: attention.* means q, k, v and o of every block, blocks.3.* one block."
    ),
    "FH012": (
        "The disk became full while a checkpoint was written. The half-written one was removed, the one before is "
        "whole. Free space and go on with --resume."
    ),
    "FH013": (
        "The numbers of a quantized model are integers, which cannot learn. Train the model it was made from, or put "
        "LoRA adapters around its layers."
    ),
    "FH015": "There is nothing to continue or to cut into tokens. Give at least one character.",
    "FH016": (
        "The scores are divided by the temperature. 0 takes the likeliest token, 1 is the model's own "
        "distribution, above 1 is wilder; a negative one would turn the ranking upside down."
    ),
    "FH017": "top-k keeps the k likeliest tokens, so k cannot exceed the vocabulary. 0 turns it off.",
    "FH018": (
        "The architecture, or one value of its config, is none that is computed here. GPT-2, Llama, Mistral, Qwen 2 "
        "and Qwen 3 are read, from Hugging Face folders and GGUF files."
    ),
    "FH019": "The file is shorter than its own header promises: a download or a copy broke off. Fetch it again.",
    "FH020": (
        "Git LFS keeps large files elsewhere and leaves a small text in their place. `git lfs pull` in that "
        "folder brings them."
    ),
    "FH021": (
        "A pickle is a program: loading it can do anything that you can do. firsthand reads and writes "
        "safetensors only."
    ),
    "FH022": (
        "A byte of the checkpoint is not what its manifest says: the disk or a copy damaged it. The newest whole "
        "one is used, the damaged one is kept under another name."
    ),
    "FH023": "There is no checkpoint at that place. Check the path, or start anew without --resume.",
    "FH024": (
        "Another process holds the lock of this folder and is writing it. Stop it, or choose another out=. The "
        "lock dies with its process: there is nothing to clean up after a crash."
    ),
    "FH025": (
        "The folder already holds a run, a text or an export, and mixing two would make both worthless. Go on with "
        "--resume and the same settings, or choose another folder."
    ),
    "FH026": (
        "Nothing usable was found: the files are empty, blank, or lack the text. The message counts what was "
        "dropped and why."
    ),
    "FH027": "A line of the file is not JSON. Mend it, or let data.reading.on_bad=skip drop and count such lines.",
    "FH028": "The file is not UTF-8. If the message guesses the encoding, name it: data.reading.encoding=latin-1.",
    "FH029": "The text is shorter than one window of the model. Give more text, or a smaller model.context_length.",
    "FH030": (
        "The held-out part of the text would be empty, and a loss without held-out text says nothing. Use a "
        "larger data.validation_fraction, or more text."
    ),
    "FH031": (
        "The width is shared out among the heads, so n_head must divide d_model (and n_kv_head must divide n_head)."
    ),
    "FH033": (
        "The settings hold a key that does not exist, or a value of the wrong type or range. All problems are "
        "listed, each with the file and line, or the word of the command line, that set it. `firsthand train "
        "--dry-run` prints all keys with their values."
    ),
    "FH034": "A number is outside what makes sense. The message names the range.",
    "FH035": (
        "The chosen and the rejected answer of a pair are the same, so there is nothing to prefer. Leave such pairs "
        "out, or mend them."
    ),
    "FH036": (
        "A conversation in which the assistant says nothing holds nothing to learn. Leave it out, or give it an answer."
    ),
    "FH037": (
        "The loss or the gradient was not a number, and the update was not applied: the weights are still good. "
        "The batch is in nonfinite-step-N.json. Usual causes: a learning rate too high, or float16 without need. "
        "Go on from the last checkpoint with a lower train.learning_rate."
    ),
    "FH038": (
        "Memory ran out. Halve train.batch_size and double train.accumulate (the result stays the same), or "
        "recompute activations with train.checkpointing=true, or use train.dtype=bfloat16."
    ),
    "FH041": "A LoRA adapter of so high a rank would learn more numbers than the layer it stands around has.",
    "FH042": (
        "An adapter cannot be added into quantized weights without rounding them again, which would change the model. "
        "Merge it into the original model, then quantize that."
    ),
}
