"""Rows whose fault is in a program while it runs: no file shows it."""

from corpus.row import Beyond

BEYOND = (
    Beyond(
        number=69, thread="vllm#9628", what="A vision model was built without its prefix, so that the list missed it."
    ),
    Beyond(
        number=87,
        thread="sglang#37848",
        what="Layers were made without their names, so that their settings were passed over.",
    ),
    Beyond(
        number=125,
        thread="sglang#33500",
        what="A placeholder for a scale, the byte 0, was taken for a scale at reload.",
    ),
    Beyond(
        number=131, thread="vllm#39407", what="One token repeats; the reporter suspects scales that are applied twice."
    ),
    Beyond(number=143, thread="vllm#7141", what="A check counted optional scales as missing."),
    Beyond(number=144, thread="sglang#27131", what="Scales are zero after the memory was given back and taken again."),
    Beyond(number=159, thread="vllm#20052", what="A fallback kernel wanted integers."),
    Beyond(number=161, thread="vllm#38093", what="A kernel's wrapper cut activations of three axes."),
    Beyond(number=164, thread="sglang#30749", what="What an engine does after loading cannot be done twice."),
    Beyond(number=169, thread="NeMo-RL#2081", what="A scale has another shape after an engine prepared it."),
    Beyond(
        number=170, thread="sglang#40587", what="The second synchronisation expects a dtype that the first one changed."
    ),
    Beyond(number=171, thread="vllm#28425", what="A parameter has lost its loader after an engine prepared it."),
    Beyond(number=172, thread="vllm#39663", what="Quantizing while loading lost the biases."),
    Beyond(
        number=177, thread="Automodel#2682", what="A cast copied the weights, and what was loaded went to the copy."
    ),
    Beyond(number=180, thread="ComfyUI#11128", what="One commit of the program broke scaled models."),
    Beyond(number=186, thread="musubi-tuner#1079", what="The dtype of a product followed the scale's."),
    Beyond(number=188, thread="LlamaFactory#10328", what="A conversion has no reverse."),
)
