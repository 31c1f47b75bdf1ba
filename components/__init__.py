"""LLM2CLIP as nine stages, each one folder of the same name.

    inputs -> download -> recaption -> audit -> tune_llm -> embed_captions -> train_clip -> evaluate
           base_models ------^-----------^---------^                                            |
                                                                        registry <- register <--+

`dvc.yaml` is the graph; `params.yaml` holds every value that can change a result.
"""
