// How matrix products are computed, as measured: one choice a line, in four fields with tabs between them (choices.h): the device, the
// library and its version, the product, the algorithm. A product without a line is computed as the library suggests. The text belongs
// to a program's fingerprint: another algorithm gives other bits. Written by test/gpu/choices.ts.

const choices: readonly string[] = []

/** The stored table of products. */
export const productChoices: string = choices.join('\n')
