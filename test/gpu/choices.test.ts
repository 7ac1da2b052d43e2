// How measured products come into the stored table.
import test from 'ava'
import { merged } from './choices.js'

const line = (device: string, product: string, algorithm: string): string =>
  `${device}\tcublaslt 130101\t${product}\t${algorithm}`

test('a better candidate replaces the line of its device, library and product, and no other', (t) => {
  const table = [line('A', '8x8x8 nn', '00'), line('A', '8x8x8 nt', '01'), line('B', '8x8x8 nn', '02')].join('\n')
  t.deepEqual(merged(table, [{ choice: line('A', '8x8x8 nn', 'ff'), better: true }]), [
    line('A', '8x8x8 nn', 'ff'),
    line('A', '8x8x8 nt', '01'),
    line('B', '8x8x8 nn', '02'),
  ])
})

test('a product that the library suggests best has no line', (t) => {
  const table = [line('A', '8x8x8 nn', '00'), line('A', '8x8x8 nt', '01')].join('\n')
  t.deepEqual(merged(table, [{ choice: line('A', '8x8x8 nn', '00'), better: false }]), [line('A', '8x8x8 nt', '01')])
})

test('an empty table takes its first lines', (t) => {
  t.deepEqual(merged('', []), [])
  t.deepEqual(merged('', [{ choice: line('A', '8x8x8 nn', '00'), better: true }]), [line('A', '8x8x8 nn', '00')])
})
