package probe

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"sync"
	"testing"

	"go.uber.org/goleak"

	"github.com/lvx-lb/lvx/pkg/health"
)

// jobEnv makes the test binary a prober: a process of its own in the
// director's namespace.
const jobEnv = "LVX_TEST_PROBER"

// job is what a prober does: all checks, Times times each, at once.
type job struct {
	Clsact     bool // as on a kernel without tcx
	Interfaces []string
	Targets    []health.Target
	Times      int
	Hang       bool // stay attached until killed
}

var hooks = map[bool]hook{false: tcx, true: clsact}

func TestMain(m *testing.M) {
	if text := os.Getenv(jobEnv); text != "" {
		if err := probeMain(text); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	goleak.VerifyTestMain(m)
}

// probeMain prints, per target, the distinct answers it got.
func probeMain(text string) error {
	var j job
	if err := json.Unmarshal([]byte(text), &j); err != nil {
		return err
	}
	path, err := attach(j.Interfaces, hooks[j.Clsact])
	if err != nil {
		return err
	}
	answers := make([]map[string]int, len(j.Targets))
	var mu sync.Mutex
	var wg sync.WaitGroup
	for i, t := range j.Targets {
		answers[i] = map[string]int{}
		for range max(j.Times, 1) {
			c, err := health.New(t, health.WithPath(path))
			if err != nil {
				return err
			}
			wg.Go(func() {
				answer := "pass"
				if err := c.Check(context.Background()); err != nil {
					answer = err.Error()
				}
				mu.Lock()
				defer mu.Unlock()
				answers[i][answer]++
			})
		}
	}
	wg.Wait()
	if err := json.NewEncoder(os.Stdout).Encode(answers); err != nil {
		return err
	}
	if j.Hang {
		select {}
	}
	return path.Close()
}
