// What of the products' blocking decides bits. It is part of every program's fingerprint for this backend (README.md, "Products").

/** Steps along K whose sum is made in registers before it is added to that of the steps before: `KC` of gemm.h. */
export const depthBlock = 384
