// A small workflow runner for Gitea, for the bench only.
//
// It speaks Gitea's own runner protocol: registers with a token, declares its labels, fetches tasks, runs
// their `run:` steps on this machine with sh, streams the log and reports the result. Of actions (`uses:`)
// it knows actions/checkout; of expressions (`${{ }}`) none: a step that needs more fails and says so.
package main

import (
	"context"
	"flag"
	"log"
	"net/http"
	"strings"
	"time"

	runnerv1 "code.gitea.io/actions-proto-go/runner/v1"
	"code.gitea.io/actions-proto-go/runner/v1/runnerv1connect"
	"connectrpc.com/connect"
)

const version = "bench"

// How often a new task is asked for: a story waits for it.
const fetchEvery = 300 * time.Millisecond

func main() {
	url := flag.String("url", "", "Gitea's URL")
	token := flag.String("token", "", "registration token")
	labels := flag.String("labels", "ubuntu-latest", "labels that jobs may ask for in runs-on, with commas between")
	work := flag.String("work", ".", "folder to run jobs in")
	flag.Parse()
	if *url == "" || *token == "" {
		log.Fatal("say -url and -token")
	}

	ctx := context.Background()
	runner := &identity{}
	client := runnerv1connect.NewRunnerServiceClient(
		&http.Client{Timeout: 30 * time.Second},
		strings.TrimRight(*url, "/")+"/api/actions",
		connect.WithInterceptors(runner),
	)
	names := strings.Split(*labels, ",")
	registered, err := client.Register(ctx, connect.NewRequest(&runnerv1.RegisterRequest{Name: "bench", Token: *token, Version: version, Labels: names}))
	if err != nil {
		log.Fatalf("cannot register: %v", err)
	}
	runner.uuid, runner.token = registered.Msg.Runner.Uuid, registered.Msg.Runner.Token
	if _, err := client.Declare(ctx, connect.NewRequest(&runnerv1.DeclareRequest{Version: version, Labels: names})); err != nil {
		log.Fatalf("cannot declare labels: %v", err)
	}
	log.Printf("registered as %s with labels %v", runner.uuid, names)

	for seen := int64(0); ; {
		answer, err := client.FetchTask(ctx, connect.NewRequest(&runnerv1.FetchTaskRequest{TasksVersion: seen}))
		switch {
		case err != nil:
			log.Printf("cannot fetch a task: %v", err)
		case answer.Msg.Task != nil:
			// There may be another one under the same version: ask again before waiting.
			job := &job{client: client, task: answer.Msg.Task, folder: *work}
			job.run(ctx)
			continue
		default:
			seen = answer.Msg.TasksVersion
		}
		time.Sleep(fetchEvery)
	}
}

// identity adds the headers that say which runner asks.
type identity struct{ uuid, token string }

func (i *identity) WrapUnary(next connect.UnaryFunc) connect.UnaryFunc {
	return func(ctx context.Context, request connect.AnyRequest) (connect.AnyResponse, error) {
		request.Header().Set("x-runner-uuid", i.uuid)
		request.Header().Set("x-runner-token", i.token)
		return next(ctx, request)
	}
}

func (i *identity) WrapStreamingClient(next connect.StreamingClientFunc) connect.StreamingClientFunc {
	return next
}

func (i *identity) WrapStreamingHandler(next connect.StreamingHandlerFunc) connect.StreamingHandlerFunc {
	return next
}
