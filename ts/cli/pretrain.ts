/** `chatlm pretrain`: a model from random weights, or on from one. */
import { trainingVerb } from "./core/training.ts"

export const command = trainingVerb("pretrain", "Train a model from random weights or from a folder")
