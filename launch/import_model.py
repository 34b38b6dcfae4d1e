"""Import a GGUF file: a Hugging Face directory that every command takes, with safetensors, tokenizer and template.

    python launch/import_model.py source=FILE.gguf output=DIR [dtype=bfloat16]

Llama (Mistral's files, too), Qwen and Gemma. The weights are what the file's blocks stand for; what quantisation has
rounded off is not restored. The directory's card names the file and its sha256.
"""

from derta.config.command import Command
from derta.config.export import ImportConfig


def run(config: ImportConfig) -> None:
    from pathlib import Path

    from derta.models.gguf import import_gguf

    about = import_gguf(Path(config.source), Path(config.output), config.dtype.value)
    print(f"{about['name']}: {about['parameters']:,} parameters in {about['dtype']}: {config.output}")


main = Command("import_model", ImportConfig, run, __doc__)

if __name__ == "__main__":
    main()
