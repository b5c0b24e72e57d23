package admin

import (
	"context"
	"errors"
	"net/http"

	"github.com/lvx-lb/lvx/pkg/director"
	"github.com/lvx-lb/lvx/pkg/history"
	"github.com/lvx-lb/lvx/pkg/ipvsadm"
	"github.com/lvx-lb/lvx/pkg/lb"
)

// Director is what answers; [director.Director] is one.
type Director interface {
	Status(ctx context.Context) (director.Status, error)
	List(ctx context.Context, want director.Want) (director.Listing, error)
	Explain(ctx context.Context, p lb.Packet) (lb.Explanation, error)
	Trace(ctx context.Context, f lb.TraceFilter, keep int) (lb.Trace, error)
	Losses() []director.Loss
	Ping(ctx context.Context) error
	Diff(ctx context.Context, text []byte) ([]string, error)
	History(f history.Filter) []history.Event
	Edit(ctx context.Context, commands []ipvsadm.Command) (ipvsadm.Result, error)
	ClearRuntime(ctx context.Context) (director.Result, error)
	Export(ctx context.Context, runtimeOnly bool) (string, error)
	Reload(ctx context.Context) (director.Result, error)
	SetWeight(ctx context.Context, service, real string, weight *uint16) (director.Result, error)
	Drain(ctx context.Context, service, real string, o director.DrainOptions) (director.Result, error)
	DrainDirector(ctx context.Context, undo bool) (director.Result, error)
}

// The paths of the API. What changes something is POST, as is diff, whose body
// may be another configuration; the others are GET.
const (
	pathStatus  = "/v1/status"
	pathLosses  = "/v1/losses"
	pathList    = "/v1/list"
	pathExplain = "/v1/explain"
	pathTrace   = "/v1/trace"
	pathHistory = "/v1/history"
	pathMetrics = "/v1/metrics"
	pathDiff    = "/v1/diff"
	pathReload  = "/v1/reload"
	pathUpgrade = "/v1/upgrade"
	pathWeight  = "/v1/weight"
	pathDrain   = "/v1/drain"
	pathEdit    = "/v1/edit"
	pathClear   = "/v1/runtime/clear"
	pathExport  = "/v1/export"

	pathDrainDirector = "/v1/drain/director"

	pathExamine    = "/v1/examine"
	pathSyncImport = "/v1/sync/import"
	pathSyncPush   = "/v1/sync/push"
)

// weightRequest is the body of a POST to /v1/weight.
type weightRequest struct {
	Service string  `json:"service"`
	Real    string  `json:"real"`
	Weight  *uint16 `json:"weight"` // null = the configuration's again
}

// upgradeRequest is the body of a POST to /v1/upgrade.
type upgradeRequest struct {
	Binary string `json:"binary"`
}

// drainRequest is the body of a POST to /v1/drain.
type drainRequest struct {
	Service string `json:"service"`
	Real    string `json:"real"`
	director.DrainOptions
}

// drainDirectorRequest is the body of a POST to /v1/drain/director.
type drainDirectorRequest struct {
	Undo bool `json:"undo"`
}

// diffRequest is the body of a POST to /v1/diff.
type diffRequest struct {
	Text []byte `json:"text"` // null = the daemon's own file
}

// problem is the body of every answer that is not a success.
type problem struct {
	Error string `json:"error"`
}

// statusCode is HTTP's word for a director's error.
func statusCode(err error) int {
	switch {
	case errors.Is(err, director.ErrNotFound):
		return http.StatusNotFound
	case errors.Is(err, director.ErrStopped), errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return http.StatusServiceUnavailable
	}
	return http.StatusUnprocessableEntity
}
