// An actor that ends the worker thread it lives on, for failures that come between messages.
import { defineActor } from '../../../runtime/actor/definition.js'

export const assassin = defineActor(import.meta.url, 'assassin', {
  init: () => null,
  receive: {
    strike: (): void => process.exit(1),
  },
})
