// Optimizers and schedules as numbers: what the update ops are told once and at each step.
export * from './error.js'
export * from './groups.js'
export * from './loss-scale.js'
export * from './optimizer.js'
export * from './schedule.js'
