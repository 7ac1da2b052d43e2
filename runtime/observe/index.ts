// What a run shows: events, log, progress, curves, traces.
export * from './chart.js'
export * from './events.js'
export * from './format.js'
export * from './log.js'
export * from './progress.js'
export * from './trace.js'
