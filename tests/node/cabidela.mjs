// The reference service's own validator: {schema, bodies} as JSON on stdin; per body null, or what it complains about.

import { readFileSync } from 'node:fs'

// Node 20 has not got these two yet.
Set.prototype.union ??= function (other) {
  return new Set([...this, ...other])
}
Set.prototype.difference ??= function (other) {
  return new Set([...this].filter((item) => !other.has(item)))
}

const { Cabidela } = await import('@cloudflare/cabidela')
const { schema, bodies } = JSON.parse(readFileSync(0, 'utf8'))

function complaint(body) {
  try {
    new Cabidela(structuredClone(schema), { applyDefaults: true }).validate(body)
    return null
  } catch (error) {
    return error.message
  }
}

process.stdout.write(JSON.stringify(bodies.map(complaint)))
