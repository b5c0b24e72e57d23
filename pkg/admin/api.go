package admin

import (
	"context"
	"errors"
	"net/http"

	"github.com/lvx-lb/lvx/pkg/director"
	"github.com/lvx-lb/lvx/pkg/lb"
)

// Director is what answers; [director.Director] is one.
type Director interface {
	Status(ctx context.Context) (director.Status, error)
	List(ctx context.Context, want director.Want) (director.Listing, error)
	Explain(ctx context.Context, p lb.Packet) (lb.Explanation, error)
	Reload(ctx context.Context) error
	SetWeight(ctx context.Context, service, real string, weight *uint16) error
	Drain(ctx context.Context, service, real string, undo bool) error
}

// The paths of the API. Status, list and explain are GET, the others POST.
const (
	pathStatus  = "/v1/status"
	pathList    = "/v1/list"
	pathExplain = "/v1/explain"
	pathReload  = "/v1/reload"
	pathWeight  = "/v1/weight"
	pathDrain   = "/v1/drain"
)

// weightRequest is the body of a POST to /v1/weight.
type weightRequest struct {
	Service string  `json:"service"`
	Real    string  `json:"real"`
	Weight  *uint16 `json:"weight"` // null = the configuration's again
}

// drainRequest is the body of a POST to /v1/drain.
type drainRequest struct {
	Service string `json:"service"`
	Real    string `json:"real"`
	Undo    bool   `json:"undo"`
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
