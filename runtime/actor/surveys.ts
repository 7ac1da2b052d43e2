// Views of a running system: every host is asked what its actors do, and who has not answered in time is left out.
import type { Clock, Order } from './envelope.js'
import type { ActivityView, HostView } from './events.js'

const patienceMs = 1000

/** A view whose activity is still to come. */
export interface Filling {
  activity: ActivityView | null
}

interface Survey {
  readonly waiting: Set<number>
  readonly views: ReadonlyMap<number, Filling>
  done(): void
}

export class Surveys {
  private readonly open = new Map<number, Survey>()
  private last = 0

  constructor(
    private readonly clock: Clock,
    private readonly hosts: number,
    private readonly send: (host: number, order: Order) => boolean,
  ) {}

  /** Fills in the views by id; resolves when all hosts have answered, or have had their time. */
  ask(views: ReadonlyMap<number, Filling>): Promise<void> {
    return new Promise((resolve) => {
      const id = ++this.last
      const done = (): void => {
        timer.cancel()
        this.open.delete(id)
        resolve()
      }
      const timer = this.clock.after(patienceMs, done)
      const waiting = new Set(Array.from({ length: this.hosts }, (_, host) => host))
      this.open.set(id, { waiting, views, done })
      for (const host of [...waiting]) if (!this.send(host, { kind: 'inspect', id })) this.hear(id, host, [])
    })
  }

  hear(id: number, host: number, view: HostView): void {
    const survey = this.open.get(id)
    if (!survey) return
    for (const [actor, activity] of view) {
      const filling = survey.views.get(actor)
      if (filling) filling.activity = activity
    }
    survey.waiting.delete(host)
    if (survey.waiting.size === 0) survey.done()
  }

  /** Nobody waits for a host that has gone. */
  hostDown(host: number): void {
    for (const id of [...this.open.keys()]) this.hear(id, host, [])
  }
}
