/** `chatlm sft`: fine-tuning on answers. */
import { trainingVerb } from "./core/training.ts"

export const command = trainingVerb("sft", "Fine-tune a model on prompts and answers")
