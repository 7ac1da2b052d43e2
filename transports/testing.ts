// `deeptroupe/testing`: actor systems for tests, with an order, a time and faults that repeat from a seed.
export { VirtualClock } from './loopback/clock.js'
export { type ExploreOptions, explore } from './loopback/explore.js'
export type { Passing } from './loopback/network.js'
export { type LoopbackOptions, LoopbackSystem } from './loopback/system.js'
