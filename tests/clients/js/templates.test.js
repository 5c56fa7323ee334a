import assert from 'node:assert/strict'
import { chmod, mkdir, mkdtemp, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { before, test } from 'node:test'
import {
  BuildError,
  LogEntry,
  LogEntryEnd,
  LogEntryStart,
  Sandbox,
  Template,
  defaultBuildLogger,
  waitForFile,
  waitForPort,
  waitForProcess,
  waitForTimeout,
  waitForURL,
} from 'e2b'

let context
const unique = process.hrtime.bigint()
const named = (name) => `js-${unique}-${name}`

before(async () => {
  context = await mkdtemp(join(tmpdir(), 'context-'))
  await mkdir(join(context, 'folder'))
  await writeFile(join(context, 'folder', 'inner.txt'), 'inner\n')
  await writeFile(join(context, 'run.sh'), '#!/bin/sh\necho ran\n')
  await chmod(join(context, 'run.sh'), 0o755)
})

test('every kind of step', async () => {
  const template = Template({ fileContextPath: context })
    .fromBaseImage()
    .setEnvs({ GREETING: 'hello' })
    .runCmd('echo "$GREETING" > said')
    .setWorkdir('/srv/app')
    .copy('run.sh', '/srv/app/')
    .copyItems([{ src: 'folder', dest: '/opt/folder' }])
    .makeDir('made')
    .makeSymlink('run.sh', 'linked')
    .rename('made', 'moved')
    .setUser('root')
    .runCmd('git init -q --bare /opt/bare && mkdir /opt/gone')
    .remove('/opt/gone', { recursive: true })
    .gitClone('/opt/bare', '/opt/cloned')
    .setUser('user')
  await Template.build(template, named('steps'))
  const sandbox = await Sandbox.create(named('steps'))
  const run = async (command) => (await sandbox.commands.run(command)).stdout
  assert.equal(await run('cat ~/said'), 'hello\n')
  assert.equal(await run('pwd; ./linked; ls -d moved'), '/srv/app\nran\nmoved\n')
  assert.equal(await run('cat /opt/folder/inner.txt; ls -d /opt/*'), 'inner\n/opt/bare\n/opt/cloned\n/opt/folder\n')
  await sandbox.kill()
})

test('packages: aptInstall, bunInstall, npmInstall, pipInstall', async () => {
  const template = Template()
    .fromTemplate('base')
    .aptInstall('cowsay')
    .pipInstall('six')
    .npmInstall('bun', { g: true })
    .bunInstall('is-number')
  await Template.build(template, named('packages'))
  const sandbox = await Sandbox.create(named('packages'))
  await sandbox.commands.run('/usr/games/cowsay x && python3 -c "import six" && ls node_modules/is-number')
  await sandbox.kill()
})

test('beginnings', async () => {
  const begin = [
    () => Template().fromAlpineImage(),
    () => Template().fromArchImage(),
    () => Template().fromBunImage(),
    () => Template().fromDebianImage(),
    () => Template().fromDockerfile('FROM ubuntu:latest\nRUN true\n'),
    () => Template().fromFedoraImage(),
    () => Template().fromGCPRegistry('registry.example/team/image', { serviceAccountJSON: { a: 1 } }),
    () => Template().fromImage('e2bdev/base'),
    () => Template().fromNodeImage(),
    () => Template().fromPythonImage(),
    () => Template().fromUbuntuImage(),
    () => Template().skipCache().fromTemplate('base'),
  ]
  for (const each of begin) {
    await Template.build(each().runCmd('true'), named('begun'))
  }
})

test('names, tags and status', async () => {
  const name = named('tagged')
  // The pid makes it new: the servers that these tests run against share their layers.
  const template = Template().fromTemplate('base').runCmd(`seq 150; echo ${process.pid}`)
  assert.equal(await Template.exists(name), false)
  const build = await Template.buildInBackground(template, `${name}:v1`, { tags: ['stable'] })
  let lines = 0
  for (;;) {
    const status = await Template.getBuildStatus(build, { logsOffset: lines })
    lines += status.logEntries.length
    if (status.status === 'ready' && !status.logEntries.length) break
    assert.notEqual(status.status, 'error')
  }
  assert.ok(lines > 150)
  assert.equal(await Template.exists(name), true)
  assert.equal(await Template.aliasExists(`${name}:v1`), true)
  await Template.assignTags(`${name}:v1`, ['default', 'next'])
  await Template.removeTags(name, 'next')
  const tags = await Template.getTags(name)
  assert.deepEqual(tags.map((each) => each.tag).toSorted(), ['default', 'stable', 'v1'])
  await (await Sandbox.create(name)).kill()
})

test('a step that fails', async () => {
  const template = Template().fromTemplate('base').runCmd('whoami', { user: 'root123' })
  await assert.rejects(Template.build(template, named('failing')), (error) => {
    assert.ok(error instanceof BuildError)
    assert.match(error.message, /failed to run command 'whoami': command failed: unauthenticated: invalid username: 'root123'/)
    return true
  })
})

test('start and ready commands', async () => {
  const ready = [
    waitForPort(8000),
    waitForURL('http://localhost:8000/'),
    waitForProcess('python3'),
    waitForFile('/etc/passwd'),
    waitForTimeout(1000),
  ]
  for (const each of ready) {
    assert.ok(each.getCmd())
    const template = Template().fromTemplate('base').setStartCmd('python3 -m http.server', each)
    await Template.build(template, named('started'))
  }
  await Template.build(Template().fromTemplate('base').setReadyCmd('true'), named('ready'))
  const sandbox = await Sandbox.create(named('started'))
  assert.match((await sandbox.commands.list())[0].args.join(' '), /http.server/)
  await sandbox.kill()
})

test('what a build says', async () => {
  const said = []
  const print = defaultBuildLogger()
  await Template.build(Template().fromTemplate('base').runCmd(`echo heard ${process.pid}`), named('logged'), {
    onBuildLogs: (entry) => {
      said.push(entry)
      print(entry)
    },
  })
  assert.ok(said[0] instanceof LogEntryStart)
  assert.ok(said.at(-1) instanceof LogEntryEnd)
  assert.ok(said.every((entry) => entry instanceof LogEntry && entry.toString()))
  assert.ok(said.some((entry) => entry.message.includes('heard')))
})
