from tests.tokenizer.shared import smollm2, spm, vendor_tokenizers

__all__ = ["smollm2", "spm", "vendor_tokenizers"]
