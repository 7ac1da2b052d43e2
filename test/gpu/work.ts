// One piece of work of the GPU suite, in a process of its own: a kernel that breaks the device's context breaks nothing else. The request
// comes as JSON in the first argument, each finding goes out as a line of JSON.
import { ceilings, hostRates } from './ceilings.js'
import { kernels } from './kernels.js'
import { compareOps } from './ops.js'
import { soak } from './soak.js'
import { trainAndTime } from './speed.js'
import { checkTraining } from './training.js'

/** Writes one finding. */
export type Tell = (finding: object) => void

const works: Readonly<Record<string, (request: never, tell: Tell) => Promise<void>>> = {
  ops: compareOps,
  training: checkTraining,
  speed: trainAndTime,
  ceilings,
  host: hostRates,
  kernels,
  soak,
}

const { work, ...request } = JSON.parse(process.argv[2]!) as { work: string }
await works[work]!(request as never, (finding) => void process.stdout.write(`${JSON.stringify(finding)}\n`))
