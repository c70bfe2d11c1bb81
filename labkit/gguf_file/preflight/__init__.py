"""Would this file abort the process in llama.cpp? One check for each kind of dangerous value.

::

    run               `preflight`: all checks
    hparams           hyperparameters
    tensors           names, shapes and types
    vocabulary        tokens, scores, merges
    latent_attention  DeepSeek's layers
    architectures     what each architecture needs
"""

from labkit.gguf_file.preflight.run import preflight

__all__ = ["preflight"]
