// What can be known of GPUs on a machine without one: what the machine's report says, and what the device `cuda` refuses. Runs on a GPU
// are in test/gpu; the order of their lanes is in schedule.test.ts.
import { existsSync } from 'node:fs'
import test from 'ava'
import { addon, createGroup, DeviceError, machine } from '../../native/index.js'
import { arenaSizes } from './support.js'

const arenas = arenaSizes({ activations: 1 << 16, io: 128 })
const hasDriver = existsSync('/proc/driver/nvidia/version')

test('the report of GPUs names them, or says in one line why there are none', (t) => {
  const { devices, driver, reason } = machine().gpu
  if (devices.length > 0) {
    t.true(hasDriver)
    t.regex(driver!, /^\d+\./)
    for (const { name, memoryBytes, freeBytes, compute, multiprocessors } of devices) {
      t.true(name !== '' && memoryBytes > 2 ** 30 && freeBytes <= memoryBytes && multiprocessors > 0)
      t.regex(compute, /^\d+\.\d$/)
    }
    return
  }
  t.regex(reason!, /^(gpu|addon): .*, expected .*, got .*$/)
  if (!hasDriver) t.is(driver, null)
  if (!hasDriver && addon().addon)
    t.regex(reason!, /driver, expected NVIDIA's of version \d+ or newer, got none|built with nvcc/)
})

test('the device cuda says what is missing', (t) => {
  const { devices, reason } = machine().gpu
  const ranks = devices.length + 1
  const error = t.throws(() => createGroup({ device: 'cuda', ranks, arenas }), { instanceOf: DeviceError })
  t.is(error.code, 'DEVICE_MISSING')
  if (reason !== undefined) t.is(error.message, reason)
  else
    t.regex(
      error.message,
      new RegExp(`ranks, expected at most one for each of the ${devices.length} GPUs, got ${ranks}`),
    )
})
