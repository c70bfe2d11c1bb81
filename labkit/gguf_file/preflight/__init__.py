"""Would the engine survive this file? A check for each kind of value that would end the process there.

::

    run               preflight: all checks
    hparams           the model's numbers
    tensors           names, shapes and types
    vocabulary        tokens, scores, merges
    latent_attention  DeepSeek's layers
    architectures     what each architecture needs
"""
