"""llama.cpp's own converter for a tokenizer that it does not know: `to_gguf.py LLAMA_CPP MODEL ...its options`.

The converter refuses tokenizers whose name it cannot guess from a test text. Ours splits text as GPT-2's does.
"""

from __future__ import annotations

import sys


def main() -> None:
    llama = sys.argv.pop(1)
    sys.path[:0] = [llama, f"{llama}/gguf-py"]
    import convert_hf_to_gguf
    from conversion.base import TextModel

    TextModel.get_vocab_base_pre = lambda self, tokenizer: "gpt-2"
    convert_hf_to_gguf.main()


if __name__ == "__main__":
    main()
