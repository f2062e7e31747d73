package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	runnerv1 "code.gitea.io/actions-proto-go/runner/v1"
	"code.gitea.io/actions-proto-go/runner/v1/runnerv1connect"
	"connectrpc.com/connect"
	"google.golang.org/protobuf/types/known/timestamppb"
	"gopkg.in/yaml.v3"
)

// workflow is what Gitea sends: the workflow with one job, matrix and needs resolved.
type workflow struct {
	Env  map[string]string `yaml:"env"`
	Jobs map[string]struct {
		Env   map[string]string `yaml:"env"`
		Steps []step            `yaml:"steps"`
	} `yaml:"jobs"`
}

type step struct {
	Name      string            `yaml:"name"`
	If        string            `yaml:"if"`
	Run       string            `yaml:"run"`
	Uses      string            `yaml:"uses"`
	Shell     string            `yaml:"shell"`
	Env       map[string]string `yaml:"env"`
	Folder    string            `yaml:"working-directory"`
	Continues bool              `yaml:"continue-on-error"`
}

func (s step) title() string {
	if s.Name != "" {
		return s.Name
	}
	if s.Uses != "" {
		return s.Uses
	}
	first, _, _ := strings.Cut(strings.TrimSpace(s.Run), "\n")
	return "Run " + first
}

// job is one task of Gitea on its way from fetched to done.
type job struct {
	client  runnerv1connect.RunnerServiceClient
	task    *runnerv1.Task
	folder  string
	state   *runnerv1.TaskState
	rows    []*runnerv1.LogRow // not acknowledged yet
	sent    int64              // rows acknowledged
	secrets *strings.Replacer
}

func (j *job) run(ctx context.Context) {
	log.Printf("task %d", j.task.Id)
	j.state = &runnerv1.TaskState{Id: j.task.Id, StartedAt: timestamppb.Now()}
	var masks []string
	for _, secret := range j.task.Secrets {
		if secret != "" {
			masks = append(masks, secret, "***")
		}
	}
	j.secrets = strings.NewReplacer(masks...)

	result := j.steps(ctx)
	j.say("Job " + map[bool]string{true: "succeeded", false: "failed"}[result == runnerv1.Result_RESULT_SUCCESS])
	j.flush(ctx, true)
	j.state.Result, j.state.StoppedAt = result, timestamppb.Now()
	j.report(ctx)
	log.Printf("task %d: %v", j.task.Id, result)
}

func (j *job) steps(ctx context.Context) runnerv1.Result {
	folder, err := os.MkdirTemp(j.folder, "job-")
	if err != nil {
		j.say("cannot make a folder: " + err.Error())
		return runnerv1.Result_RESULT_FAILURE
	}
	defer os.RemoveAll(folder)
	var flow workflow
	if err := yaml.Unmarshal(j.task.WorkflowPayload, &flow); err != nil {
		j.say("cannot read the workflow: " + err.Error())
		return runnerv1.Result_RESULT_FAILURE
	}
	result := runnerv1.Result_RESULT_SUCCESS
	for _, one := range flow.Jobs {
		for number := range one.Steps {
			j.state.Steps = append(j.state.Steps, &runnerv1.StepState{Id: int64(number)})
		}
		j.report(ctx)
		for number, step := range one.Steps {
			state := j.state.Steps[number]
			if result != runnerv1.Result_RESULT_SUCCESS && strings.TrimSpace(step.If) != "always()" {
				state.Result = runnerv1.Result_RESULT_SKIPPED
				continue
			}
			state.StartedAt, state.LogIndex = timestamppb.Now(), j.sent+int64(len(j.rows))
			state.Result = runnerv1.Result_RESULT_SUCCESS
			if err := j.step(ctx, step, folder, flow.Env, one.Env); err != nil {
				j.say("##[error]" + err.Error())
				state.Result = runnerv1.Result_RESULT_FAILURE
				if !step.Continues {
					result = runnerv1.Result_RESULT_FAILURE
				}
			}
			state.StoppedAt, state.LogLength = timestamppb.Now(), j.sent+int64(len(j.rows))-state.LogIndex
			j.flush(ctx, false)
			j.report(ctx)
		}
	}
	return result
}

func (j *job) step(ctx context.Context, step step, folder string, envs ...map[string]string) error {
	j.say("##[group]" + step.title())
	defer j.say("##[endgroup]")
	if strings.Contains(step.Run, "${{") || (step.If != "" && strings.TrimSpace(step.If) != "always()") {
		return fmt.Errorf("this runner evaluates no expressions")
	}
	script := step.Run
	switch {
	case strings.HasPrefix(step.Uses, "actions/checkout@"):
		script = `set -e
git init -q .
git -c "http.extraheader=Authorization: Basic $(printf 'x-access-token:%s' "$GITHUB_TOKEN" | base64 | tr -d '\n')" fetch -q --depth 1 "$GITHUB_SERVER_URL/$GITHUB_REPOSITORY" "$GITHUB_SHA"
git checkout -q FETCH_HEAD
echo "HEAD is now at $GITHUB_SHA"`
	case step.Uses != "":
		return fmt.Errorf("this runner does not know %s", step.Uses)
	}
	shell := []string{"sh", "-e", "-c"}
	if step.Shell == "bash" {
		shell = []string{"bash", "-eo", "pipefail", "-c"}
	}
	command := exec.CommandContext(ctx, shell[0], append(shell[1:], script)...)
	command.Dir = filepath.Join(folder, step.Folder)
	command.Env = append(os.Environ(), "CI=true", "GITHUB_ACTIONS=true", "GITEA_ACTIONS=true", "GITHUB_WORKSPACE="+folder, "GIT_TERMINAL_PROMPT=0")
	for _, name := range []string{"actor", "event_name", "job", "ref", "ref_name", "repository", "run_id", "run_number", "server_url", "sha", "token", "workflow"} {
		command.Env = append(command.Env, "GITHUB_"+strings.ToUpper(name)+"="+j.about(name))
	}
	for _, env := range append(envs, step.Env) {
		for name, value := range env {
			command.Env = append(command.Env, name+"="+value)
		}
	}
	reader, writer := io.Pipe()
	command.Stdout, command.Stderr = writer, writer
	read := make(chan struct{})
	go func() {
		defer close(read)
		for lines := bufio.NewReader(reader); ; {
			line, err := lines.ReadString('\n')
			if line != "" {
				j.say(strings.TrimRight(line, "\r\n"))
			}
			if err != nil {
				return
			}
		}
	}()
	err := command.Run()
	writer.Close()
	<-read
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return fmt.Errorf("Process completed with exit code %d.", exit.ExitCode())
	}
	return err
}

// about is a value of the task's context, as text.
func (j *job) about(name string) string {
	return j.task.Context.GetFields()[name].GetStringValue()
}

// say adds a line to the log. Called by one goroutine at a time: a step's reader ends before its step does.
func (j *job) say(line string) {
	j.rows = append(j.rows, &runnerv1.LogRow{Time: timestamppb.Now(), Content: j.secrets.Replace(line)})
}

// flush sends the lines that are not acknowledged; the last time with at least one line, since Gitea
// archives a log only when the message that ends it has one.
func (j *job) flush(ctx context.Context, last bool) {
	for tries := 0; len(j.rows) > 0 && tries < 50; tries++ {
		answer, err := j.client.UpdateLog(ctx, connect.NewRequest(&runnerv1.UpdateLogRequest{TaskId: j.task.Id, Index: j.sent, Rows: j.rows, NoMore: last}))
		if err != nil {
			log.Printf("task %d: cannot send its log: %v", j.task.Id, err)
			time.Sleep(fetchEvery)
			continue
		}
		j.rows = j.rows[answer.Msg.AckIndex-j.sent:]
		j.sent = answer.Msg.AckIndex
	}
}

func (j *job) report(ctx context.Context) {
	for tries := 0; tries < 50; tries++ {
		_, err := j.client.UpdateTask(ctx, connect.NewRequest(&runnerv1.UpdateTaskRequest{State: j.state}))
		if err == nil {
			return
		}
		log.Printf("task %d: cannot report: %v", j.task.Id, err)
		time.Sleep(fetchEvery)
	}
}
