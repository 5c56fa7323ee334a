// Sandboxes for these tests. Where the server is, E2B_API_URL and its like say, as in any program.
import { after, before } from 'node:test'
import { Sandbox } from 'e2b'

/** One sandbox for all tests of a file; the object that is returned carries it once they run. */
export function shareSandbox(options = {}) {
  const shared = {}
  before(async () => {
    shared.sandbox = await Sandbox.create({ timeoutMs: 300_000, ...options })
  })
  after(() => shared.sandbox?.kill())
  return shared
}

/** The scheme of sandboxes' host names: with nothing but a domain, the SDK speaks TLS. */
export const scheme = process.env.E2B_API_URL ? 'http' : 'https'

/** Wait for a condition; fail when it does not come about. */
export async function until(condition, milliseconds = 15_000) {
  const deadline = Date.now() + milliseconds
  while (!(await condition())) {
    if (Date.now() > deadline) throw new Error(`it did not happen in time: ${condition}`)
    await new Promise((resolve) => setTimeout(resolve, 20))
  }
}
