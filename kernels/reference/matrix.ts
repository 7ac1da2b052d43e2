// Row-major matrices in float64 for linear layers, sums over rows and the fused head.

/** C_MN = A_MK B_KN. */
export function multiply(a: Float64Array, b: Float64Array, m: number, k: number, n: number): Float64Array {
  const c = new Float64Array(m * n)
  for (let row = 0; row < m; row++) {
    for (let inner = 0; inner < k; inner++) {
      const factor = a[row * k + inner]!
      for (let column = 0; column < n; column++) c[row * n + column]! += factor * b[inner * n + column]!
    }
  }
  return c
}

/** The transpose of a matrix of `rows` x `columns`. */
export function transpose(a: Float64Array, rows: number, columns: number): Float64Array {
  const t = new Float64Array(a.length)
  for (let row = 0; row < rows; row++) {
    for (let column = 0; column < columns; column++) t[column * rows + row] = a[row * columns + column]!
  }
  return t
}

/** The sum of all rows of a matrix of `columns`. */
export function sumOfRows(a: Float64Array, columns: number): Float64Array {
  const sums = new Float64Array(columns)
  a.forEach((x, i) => {
    sums[i % columns]! += x
  })
  return sums
}
