// A whole system on one thread for tests: every "worker" is a host of its own behind encoded channels. The interleaving and all chance
// are drawn from one seed, and time moves only when the test says so.
import { CreditTable } from '../../runtime/actor/credits.js'
import { Random } from '../../runtime/actor/random.js'
import { System } from '../../runtime/actor/system.js'
import { VirtualClock } from './clock.js'
import { Network, type Passing } from './network.js'

const slots = 4096

export interface LoopbackOptions {
  readonly workers: number
  /** Draws the interleaving of channels and the jitter of restarts; default 1. */
  readonly seed?: number
}

const hostOf = (place: number | 'main'): number => (place === 'main' ? 0 : place + 1)

/** A deterministic system: same seed, same interleaving. */
export class LoopbackSystem extends System {
  private constructor(
    private readonly network: Network,
    readonly clock: VirtualClock,
    credits: CreditTable,
    seed: number,
  ) {
    const transport = network.transport(0)
    super({ name: 'loopback', credits, clock, transport, spawner: network, seed, log: { write: () => {} } })
    network.hosts.set(0, this.host)
    network.onDown = (host, cause) => this.guardian.hostDown(host, cause)
  }

  static async start(options: LoopbackOptions): Promise<LoopbackSystem> {
    const { workers, seed = 1 } = options
    const credits = CreditTable.create(slots, workers + 1)
    const clock = new VirtualClock()
    const network = new Network('loopback', workers, new Random(seed), credits, clock)
    const system = new LoopbackSystem(network, clock, credits, seed)
    for (let host = 1; host <= workers; host++) await network.open(host)
    return system
  }

  /** Resolves when no message is on its way, but those held back, and promises have run. */
  async settle(): Promise<void> {
    for (let quiet = 0; quiet < 4; ) {
      await new Promise(setImmediate)
      quiet = this.network.idle ? quiet + 1 : 0
    }
  }

  /** Lets `ms` of virtual time pass, firing what falls due in order. */
  async advance(ms: number): Promise<void> {
    const limit = this.clock.now() + ms
    await this.settle()
    while (this.clock.step(limit)) await this.settle()
  }

  /** Ends every fault, then the system. */
  override stop(): Promise<void> {
    this.network.calm()
    return super.stop()
  }

  /** Ends a worker at once, as a crash would. */
  async kill(worker: number): Promise<void> {
    this.network.kill(worker + 1)
    await this.settle()
  }

  /** Has a worker stand still, as a handler that never ends would: nothing reaches it or leaves it until {@link thaw}. */
  freeze(worker: number): void {
    this.network.freeze(worker + 1, true)
  }

  /** Lets a frozen worker run on. */
  thaw(worker: number): void {
    this.network.freeze(worker + 1, false)
  }

  /** Holds back all that goes between two places until {@link heal}. */
  cut(a: number | 'main', b: number | 'main'): void {
    this.network.cut(hostOf(a), hostOf(b), true)
  }

  /** Ends a cut; what was held back arrives. */
  heal(a: number | 'main', b: number | 'main'): void {
    this.network.cut(hostOf(a), hostOf(b), false)
  }

  /** Has whatever goes from one place to another arrive `ms` of virtual time later from now on. */
  delay(from: number | 'main', to: number | 'main', ms: number): void {
    this.network.delay(hostOf(from), hostOf(to), ms)
  }

  /** Loses messages between places that match, told and asked, as a broken link would; returns its end. */
  drop(matches: (message: Passing) => boolean): () => void {
    return this.network.drop(matches)
  }
}
