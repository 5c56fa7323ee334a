// The official package for JavaScript. Where the server is, its environment says.
import assert from 'node:assert/strict'
import { after, before, test } from 'node:test'
import { NotFoundError, Sandbox, TimeoutError } from '@e2b/code-interpreter'

let sandbox

before(async () => {
  sandbox = await Sandbox.create({ timeoutMs: 300_000 })
})
after(() => sandbox?.kill())

test('a result, output and the count', async () => {
  const seen = []
  const execution = await sandbox.runCode('print("out"); 1 + 1', {
    onStdout: (message) => seen.push(['stdout', message.line]),
    onResult: (result) => seen.push(['result', result.text]),
  })
  assert.equal(execution.text, '2')
  assert.deepEqual(execution.logs, { stdout: ['out\n'], stderr: [] })
  assert.deepEqual(seen, [
    ['stdout', 'out\n'],
    ['result', '2'],
  ])
  assert.equal(execution.results[0].isMainResult, true)
  assert.equal(typeof execution.executionCount, 'number')
})

test('an error', async () => {
  const { error } = await sandbox.runCode('1 / 0')
  assert.deepEqual([error.name, error.value], ['ZeroDivisionError', 'division by zero'])
  assert.match(error.traceback, /1 \/ 0/)
})

test('a chart', async () => {
  const code = `import matplotlib.pyplot as plt
plt.bar(['a', 'b'], [1, 2]); plt.title('T'); plt.show()`
  const [result] = (await sandbox.runCode(code)).results
  assert.ok(Buffer.from(result.png, 'base64').subarray(1, 4).equals(Buffer.from('PNG')))
  assert.deepEqual([result.chart.type, result.chart.title], ['bar', 'T'])
  assert.deepEqual(
    result.chart.elements.map(({ label, value }) => [label, Number(value)]),
    [
      ['a', 1],
      ['b', 2],
    ]
  )
})

test('data of a frame', async () => {
  const code = 'import pandas as pd; pd.DataFrame({"n": [1, 2]})'
  assert.deepEqual((await sandbox.runCode(code)).results[0].data, { n: [1, 2] })
})

for (const [language, code] of [
  ['javascript', '40 + 2'],
  ['typescript', 'const n: number = 42; n'],
  ['r', '42'],
  ['java', '40 + 2'],
]) {
  test(`the language ${language}`, async () => {
    assert.match((await sandbox.runCode(code, { language })).results[0].text, /42/)
  })
}

test('the language bash', async () => {
  const execution = await sandbox.runCode('echo 42', { language: 'bash' })
  assert.equal(execution.logs.stdout.join(''), '42\n')
})

test('contexts', async () => {
  const context = await sandbox.createCodeContext({ cwd: '/tmp', language: 'python' })
  assert.deepEqual([context.language, context.cwd], ['python', '/tmp'])
  const here = await sandbox.runCode('import os; kept = 1; os.getcwd()', { context })
  assert.equal(here.text, '/tmp')
  await sandbox.restartCodeContext(context)
  assert.equal((await sandbox.runCode('kept', { context })).error.name, 'NameError')
  const ids = (await sandbox.listCodeContexts()).map(({ id }) => id)
  assert.ok(ids.includes(context.id))
  await sandbox.removeCodeContext(context)
  await assert.rejects(sandbox.runCode('1', { context }), NotFoundError)
})

test('variables of one call', async () => {
  const code = 'import os; os.environ.get("OWN", "-")'
  assert.equal((await sandbox.runCode(code, { envs: { OWN: 'x' } })).text, 'x')
  assert.equal((await sandbox.runCode(code)).text, '-')
})

test('a timeout interrupts, and state is kept', async () => {
  await sandbox.runCode('import time; kept = "state"')
  await assert.rejects(sandbox.runCode('time.sleep(600)', { timeoutMs: 1000 }), TimeoutError)
  assert.equal((await sandbox.runCode('kept')).text, 'state')
})
