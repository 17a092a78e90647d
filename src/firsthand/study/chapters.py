"""The chapters of a journey's report: one for every stage, made from the plain numbers that the stage gave."""

from pathlib import Path
from typing import Any

import numpy as np

from firsthand.study import faster, plots, runs, tuned_chapters
from firsthand.study.attention import attention_grid, attention_map, busiest_head
from firsthand.study.choices import choices
from firsthand.study.embeddings import embedding_map
from firsthand.study.page import (
    Html,
    Row,
    Section,
    Table,
    chips,
    code,
    facts,
    figure,
    folded,
    heading,
    ladder,
    merges,
    number,
    paragraph,
    quotes,
    table,
)
from firsthand.study.proof import proof_chapter
from firsthand.study.tokens import token_lengths, window_picture

Result = dict[str, Any]


def chapter(stage: str, result: Result) -> Section:
    """The chapter of a stage; of one that has no pictures yet, what it said."""
    makers = {
        "tokenizer": tokenizer,
        "data": data,
        "attention": attention,
        "model": model,
        "pretrain": pretrain,
        "generate": generate,
        "weights": weights,
        "cache": faster.cache,
        "quantize": faster.quantize,
        **tuned_chapters.MAKERS,
    }
    if stage in makers:
        return makers[stage](result)
    return Section(stage.capitalize(), "", [code("\n".join(result.get("lines", [])))])


def tokenizer(result: Result) -> Section:
    """Text becomes tokens."""
    measured, sentence = result["numbers"], result["sentence"]
    numbers = [
        ("vocabulary", number(measured["vocabulary"]), "tokens, of which 256 are the single bytes"),
        ("compression", f"{measured['bytes_per_token']:.2f}", "bytes per token; 1.00 without merges"),
        ("words kept whole", f"{measured['whole_words']:.0%}", "of the different words of the text"),
        ("speed", f"{measured['megabytes_per_second']:.1f}", "megabytes of text per second, one thread"),
    ]
    lengths = {int(length): count for length, count in result["token_lengths"].items()}
    parts = [
        facts(numbers),
        heading("A sentence, as the model will see it"),
        chips(sentence["tokens"]),
        heading("The first merges"),
        paragraph("Learning means: find the pair that occurs most often, make it one token, and begin again."),
        merges([(a, b) for a, b in result["first_merges"]]),
        heading("How words are put together"),
        *(ladder(steps) for steps in result["steps"]),
        figure(token_lengths(lengths)),
        heading("The longest tokens"),
        chips(result["longest"]),
    ]
    lead = (
        "A model reads numbers, not letters. Byte-pair encoding starts from single bytes and learns which of them "
        f"belong together, here from {result['bytes']:,} bytes of text. A dot stands for a space."
    )
    return Section("Text becomes tokens", lead, parts)


def data(result: Result) -> Section:
    """Tokens become a data set."""
    prepared, rows = result["prepared"], result["windows"]
    numbers = [
        ("to learn from", number(prepared["train_tokens"]), "tokens"),
        ("held out", number(prepared["validation_tokens"]), f"tokens, never trained on ({prepared['split']})"),
        ("documents", number(prepared["documents_used"]), f"of {number(prepared['documents_read'])} read"),
        ("windows", number(result["count"]), "rows of the data set"),
    ]
    folds = [folded(f"Row {row['index']}, as the model is given it", chips(row["inputs"])) for row in rows]
    parts = [facts(numbers), *(figure(window_picture(row["inputs"], row["targets"])) for row in rows[:1]), *folds]
    lead = (
        "No one labels anything: the text is its own answer. A window slides over the tokens, and at every position "
        "the model must say which token comes next."
    )
    return Section("Tokens become a data set", lead, parts)


def attention(result: Result) -> Section:
    """The ladder of attention."""
    rows: list[Row] = [(row["rung"], row["new"], row["max_difference"]) for row in result["ladder"]]
    lead = (
        "Attention in five rungs, from one query in plain loops to the code that trains below. Each rung adds one idea "
        "and gives the numbers of the next, in float64; the last is compared with the module of the model itself."
    )
    return Section(
        "The ladder of attention", lead, [table(Table(("rung", "what is new", "largest difference to the next"), rows))]
    )


def model(result: Result) -> Section:
    """The parts become a GPT."""
    config = result["config"]
    numbers = [
        ("parameters", number(result["parameters"]), "numbers to learn"),
        ("depth", number(config["n_layer"]), "blocks of attention and feed-forward"),
        ("width", number(config["d_model"]), f"{config['n_head']} heads of {config['d_head']}"),
        ("context", number(config["context_length"]), "tokens it can look back on"),
    ]
    lines = {"with shortcuts": result["gradients"]["with"], "without": result["gradients"]["without"]}
    settings = "\n".join(f"{name} = {value}" for name, value in config.items())
    parts = [facts(numbers), figure(plots.gradients(lines)), folded("All settings of the model", code(settings))]
    lead = (
        "A block lets tokens look at each other, then lets each think for itself; both only add to what passes by. "
        "These shortcuts are why it can be deep: see how much the first layers of a stack could learn with and without."
    )
    return Section("The parts become a GPT", lead, parts)


def pretrain(result: Result) -> Section:
    """The GPT learns."""
    run, found = Path(result["run"]), result["evaluation"]
    records = runs.read_lines(run / "metrics.jsonl")
    low, high = found["interval_95"]
    bits = "–" if found["bits_per_byte"] is None else f"{found['bits_per_byte']:.3f}"
    uniform, unigram = found["baseline_uniform_loss"], found["baseline_unigram_loss"]
    numbers = [
        ("held-out loss", f"{found['loss']:.3f}", f"nats per token, 95 % [{low:.3f}, {high:.3f}]"),
        ("bits per byte", bits, "comparable between tokenizers"),
        ("perplexity", number(found["perplexity"]), "as unsure as among so many equally likely tokens"),
        ("baseline", f"{unigram:.3f}", "nats, knowing only how often each token occurs"),
    ]
    parts: list[Html] = [facts(numbers)]
    parts += runs.curves(records, {"knowing nothing": uniform, "knowing how often each token occurs": unigram})
    if samples := runs.samples_over_time(run):
        note = paragraph("The same question after more and more steps, with the same seed: only the model changes.")
        parts += [heading("Samples over time"), note, samples]
    lead = (
        "Again and again: read a few windows, be surprised, and change every weight to be a little less surprised. "
        "The loss is that surprise, in nats per token."
    )
    return Section("The GPT learns", lead, parts)


def generate(result: Result) -> Section:
    """The trained model speaks, and is looked into."""
    spoken = [(_way(way["temperature"], way["top_k"]), result["prompt"], way["text"]) for way in result["spoken"]]
    tokens, maps = result["attention"]["tokens"], np.array(result["attention"]["maps"])
    layer, head = busiest_head(maps)
    parts = [
        quotes(spoken),
        heading("The choice of the next token"),
        paragraph(f"What may follow “{result['prompt']}”, before and after each step of the sampler."),
        figure(choices(result["choice"])),
        heading("Where the trained model looks"),
        figure(attention_grid(maps, tokens)),
        figure(attention_map(maps[layer, head], tokens, f"layer {layer + 1}, head {head + 1}")),
        *_neighbourhood(result["neighbours"]),
    ]
    lead = (
        "The model gives every token a probability; how one is chosen makes the text dull, lively, or nonsense. "
        "Temperature 0 always takes the likeliest; top-k cuts off the long tail of unlikely ones."
    )
    return Section("The model writes", lead, parts)


def weights(result: Result) -> Section:
    """A model that others trained, and whether all its forms are one."""
    if "left_out" in result:
        return Section("A model that others trained", "", [code("\n".join(result["lines"]))])
    shape, proof = result["shape"], proof_chapter(result["proof"])
    numbers = [
        ("parameters", number(shape["parameters"]), "numbers, learned by others"),
        ("depth", number(shape["n_layer"]), f"blocks of width {shape['d_model']}"),
        ("heads", f"{shape['n_head']}", f"of queries, {shape['n_kv_head']} of keys and values"),
        ("context", number(shape["context_length"]), "tokens it can look back on"),
    ]
    asked = [("greedy", f"{one['question']}\n", one["answer"]) for one in result["asked"]]
    lead = (
        "Nothing but size and data separates the model above from this one: its weights are put into the same code, "
        "read from a file of another program, and it answers in turns, by the template it was tuned with."
    )
    parts = [facts(numbers), quotes(asked), heading(proof.title), paragraph(proof.lead), *proof.parts]
    return Section("A model that others trained", lead, parts)


def _way(temperature: float, top_k: int) -> str:
    """A way of sampling, for the margin."""
    if temperature == 0:
        return "greedy"
    return f"temperature {temperature:g}" + (f"\ntop-k {top_k}" if top_k else "")


def _neighbourhood(found: Result) -> list[Html]:
    """Which tokens the model holds for similar: a table, and a map of them."""
    if not found["near"]:
        return []
    rows: list[Row] = [(word, *(_shown(near) for near in others)) for word, others in found["near"].items()]
    most = max(len(row) for row in rows) - 1
    columns = ("token", *(f"nearest {place}" for place in range(1, most + 1)))
    note = paragraph("Nobody told the model what words mean. Those that occur in similar places end up side by side.")
    return [
        heading("Words that the model holds for similar"),
        note,
        table(Table(columns, rows)),
        figure(embedding_map(found["points"])),
    ]


def _shown(near: Result) -> str:
    return f"{near['token'].strip() or repr(near['token'])} {near['cosine']:.2f}"
