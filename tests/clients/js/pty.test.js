import assert from 'node:assert/strict'
import { test } from 'node:test'
import { shareSandbox, until } from './sandboxes.js'

const shared = shareSandbox()
const encode = (text) => new TextEncoder().encode(text)

async function open(options = {}) {
  const { pty } = shared.sandbox
  const screen = { text: '' }
  const onData = (data) => void (screen.text += Buffer.from(data).toString())
  screen.handle = await pty.create({ cols: 101, rows: 33, onData, timeoutMs: 0, ...options })
  screen.type = (line) => pty.sendInput(screen.handle.pid, encode(line))
  return screen
}

test('create, sendInput, resize', async () => {
  const screen = await open({ cwd: '/tmp', envs: { X: 'why' } })
  await screen.type('stty size; echo $TERM $X $PWD\n')
  await until(() => screen.text.includes('33 101'))
  await until(() => screen.text.includes('xterm-256color why /tmp'))
  await shared.sandbox.pty.resize(screen.handle.pid, { cols: 120, rows: 44 })
  await screen.type('stty size\n')
  await until(() => screen.text.includes('44 120'))
  await screen.type('exit\n')
  assert.equal((await screen.handle.wait()).exitCode, 0)
})

test('connect again', async () => {
  const { pty } = shared.sandbox
  const screen = await open()
  await screen.handle.disconnect()
  let text = ''
  const second = await pty.connect(screen.handle.pid, {
    onData: (data) => void (text += Buffer.from(data).toString()),
  })
  await screen.type('echo $((6 * 7)); exit\n')
  await second.wait()
  assert.match(text, /42/)
})

test('kill', async () => {
  const { pty } = shared.sandbox
  const screen = await open()
  const ended = assert.rejects(screen.handle.wait())
  assert.equal(await pty.kill(screen.handle.pid), true)
  await ended
  assert.equal(await pty.kill(screen.handle.pid), false)
})
