// How matrix products are computed, as measured: one choice a line, in four fields with tabs between them (choices.h): the device, the
// library and its version, the product, the algorithm. A product without a line is computed as the library suggests. The text belongs
// to a program's fingerprint: another algorithm gives other bits. `test/gpu/products.cu` measures and writes this file.

/** The stored table of products. */
export const productChoices = ''
