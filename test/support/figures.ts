// Losses of PyTorch on the small model, which every device is measured against. They are of PyTorch 2.13 with transformers 5.18 on the CPU,
// one thread: GPT2LMHeadModel (eager attention, dropout 0) with parameter p of named_parameters() filled by `hashedWeights`, row r of step
// s (both from 0) the 65 tokens of `tokenAt` from 64 (8 s + r) on, AdamW at 1e-3 with decay 0.1, clipping at 1, 50 steps, loss =
// cross_entropy(logits.float(), next tokens). `parameters`: the model in bf16, masters in fp32 that AdamW and clipping work on (gradients
// widened, masters rounded back after each step). `autocast`: the model in fp32 under torch.autocast('cpu', bfloat16).
export const bf16Losses = {
  parameters: [
    5.594687, 5.425102, 5.317885, 5.17943, 5.087464, 4.940354, 4.862216, 4.761525, 4.670511, 4.583154, 4.474911,
    4.402023, 4.310317, 4.230577, 4.147078, 4.051153, 3.977246, 3.880907, 3.801631, 3.718442, 3.625382, 3.553084,
    3.458609, 3.379375, 3.296834, 3.204993, 3.133022, 3.043896, 2.965862, 2.886975, 2.80001, 2.732202, 2.647369,
    2.571529, 2.499228, 2.417893, 2.354406, 2.276496, 2.206437, 2.139488, 2.068282, 2.00743, 1.940199, 1.882928,
    1.818702, 1.755985, 1.695291, 1.64103, 1.58771, 1.529377,
  ],
  autocast: [
    5.594858, 5.425232, 5.31776, 5.179398, 5.087792, 4.940504, 4.862243, 4.761192, 4.670454, 4.583196, 4.475112,
    4.401902, 4.309081, 4.229744, 4.145848, 4.049713, 3.97619, 3.879685, 3.801363, 3.717557, 3.624734, 3.552308,
    3.457436, 3.379693, 3.296593, 3.206373, 3.13413, 3.044249, 2.966646, 2.887439, 2.799469, 2.732287, 2.64842,
    2.571862, 2.497789, 2.416034, 2.352182, 2.272202, 2.202883, 2.136949, 2.066409, 2.004168, 1.934539, 1.877068,
    1.813307, 1.755362, 1.696829, 1.638245, 1.58822, 1.532646,
  ],
}

export const meanDifference = (a: readonly number[], b: readonly number[]): number =>
  a.reduce((sum, value, i) => sum + Math.abs(value - b[i]!), 0) / a.length

/** Twice the mean distance of PyTorch's two ways to train in bf16. */
export const bf16Bound = 2 * meanDifference(bf16Losses.parameters, bf16Losses.autocast)
