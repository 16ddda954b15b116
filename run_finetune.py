"""Fine-tune a text checkpoint for speech recognition.

accelerate launch run_finetune.py                                   # the demo recipe
accelerate launch run_finetune.py recipes/an4.yaml --seed 1         # a recipe, with some values replaced
accelerate launch run_finetune.py --dataset DATA --model_name_or_path CHECKPOINT --output_dir RUN
"""

from hf_speechft.training.finetune import main

if __name__ == "__main__":
    main()
