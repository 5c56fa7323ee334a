import assert from 'node:assert/strict'
import { test } from 'node:test'
import { CommandExitError, Sandbox, TimeoutError } from 'e2b'
import { shareSandbox } from './sandboxes.js'

const shared = shareSandbox()

test('run', async () => {
  const { commands } = shared.sandbox
  const result = await commands.run('echo out; echo err >&2')
  assert.deepEqual([result.stdout, result.stderr, result.exitCode], ['out\n', 'err\n', 0])
  const elsewhere = await commands.run('whoami; pwd; echo $X', {
    user: 'root',
    cwd: '/tmp',
    envs: { X: 'y' },
  })
  assert.equal(elsewhere.stdout, 'root\n/tmp\ny\n')
})

test('output arrives in callbacks', async () => {
  const out = []
  const err = []
  await shared.sandbox.commands.run('echo 1; echo 2 >&2; printf "€"', {
    onStdout: (text) => void out.push(text),
    onStderr: (text) => void err.push(text),
  })
  assert.equal(out.join(''), '1\n€')
  assert.equal(err.join(''), '2\n')
})

test('a failing command', async () => {
  await assert.rejects(shared.sandbox.commands.run('echo before; exit 3'), (error) => {
    assert.ok(error instanceof CommandExitError)
    assert.deepEqual([error.exitCode, error.stdout], [3, 'before\n'])
    return true
  })
})

test('sendStdin and closeStdin, on the handle and by pid', async () => {
  const { commands } = shared.sandbox
  const handle = await commands.run('cat', { background: true, stdin: true })
  await handle.sendStdin('first ')
  await commands.sendStdin(handle.pid, new TextEncoder().encode('second'))
  await handle.closeStdin()
  assert.equal((await handle.wait()).stdout, 'first second')
  assert.equal(handle.exitCode, 0)
  const other = await commands.run('cat', { background: true, stdin: true })
  await commands.closeStdin(other.pid)
  assert.equal((await other.wait()).stdout, '')
})

test('list', async () => {
  const { commands } = shared.sandbox
  const handle = await commands.run('sleep 100', { background: true, cwd: '/tmp' })
  const listed = (await commands.list()).find((each) => each.pid === handle.pid)
  assert.equal(listed.cmd, '/bin/bash')
  assert.deepEqual(listed.args, ['-l', '-c', 'sleep 100'])
  assert.equal(listed.cwd, '/tmp')
  await handle.kill()
})

test('kill, on the handle and by pid', async () => {
  const { commands } = shared.sandbox
  for (const kill of [(handle) => handle.kill(), (handle) => commands.kill(handle.pid)]) {
    const handle = await commands.run('sleep 100', { background: true })
    assert.equal(await kill(handle), true)
    await assert.rejects(handle.wait(), CommandExitError)
    assert.equal(await kill(handle), false)
  }
})

test('disconnect and connect again', async () => {
  const { sandbox } = shared
  const first = await sandbox.commands.run('read line; echo "said: $line"', {
    background: true,
    stdin: true,
  })
  await first.disconnect()
  const other = await Sandbox.connect(sandbox.sandboxId)
  const second = await other.commands.connect(first.pid)
  await other.commands.sendStdin(first.pid, 'hello\n')
  assert.equal((await second.wait()).stdout, 'said: hello\n')
  await assert.rejects(other.commands.connect(999_999), /999999/)
})

test('the timeout ends the wait, not the process', async () => {
  const { commands } = shared.sandbox
  await assert.rejects(
    commands.run('echo $$ > /tmp/pid; exec sleep 60', { timeoutMs: 1000 }),
    TimeoutError
  )
  assert.equal((await commands.run('kill -0 $(cat /tmp/pid)')).exitCode, 0)
})

test('supportsStdinClose', () => {
  assert.equal(shared.sandbox.commands.supportsStdinClose, true)
})
