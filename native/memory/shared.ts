// Memory that JavaScript shares between threads: the `io` arena everywhere, every arena of the reference device.
// It is zeroed and 16-byte aligned, no more.
import type { ArenaName } from '../../kernels/abi/program.js'
import { DeviceError } from '../device.js'

/** Throws {@link DeviceError} where the process cannot have so much. */
export function sharedMemory(arena: ArenaName, bytes: number): SharedArrayBuffer {
  try {
    return new SharedArrayBuffer(bytes)
  } catch (cause) {
    const message = `device: arena ${arena}, expected ${bytes} bytes of shared memory, got less`
    throw new DeviceError('DEVICE_MEMORY', message, { arena, bytes }, { cause })
  }
}
