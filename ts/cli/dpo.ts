/** `chatlm dpo`: alignment by preference pairs. */
import { trainingVerb } from "./core/training.ts"

export const command = trainingVerb("dpo", "Align a model by pairs of chosen and rejected answers")
