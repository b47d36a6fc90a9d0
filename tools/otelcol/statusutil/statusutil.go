// Package statusutil stands in for the module of this name that the Collector's OTLP receiver
// imports: the two functions that it calls, written after the OTLP specification.
package statusutil

import (
	"net/http"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// NewStatusFromMsgAndHTTPCode makes the status that is the body of an error answer over HTTP.
func NewStatusFromMsgAndHTTPCode(message string, code int) *status.Status {
	switch code {
	case http.StatusBadRequest:
		return status.New(codes.InvalidArgument, message)
	case http.StatusUnauthorized:
		return status.New(codes.Unauthenticated, message)
	case http.StatusForbidden:
		return status.New(codes.PermissionDenied, message)
	case http.StatusNotFound:
		return status.New(codes.Unimplemented, message)
	case http.StatusTooManyRequests:
		return status.New(codes.ResourceExhausted, message)
	case http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		return status.New(codes.Unavailable, message)
	}
	return status.New(codes.Unknown, message)
}

// GetRetryInfo finds the delay that a status asks for; nil if it asks for none.
func GetRetryInfo(s *status.Status) *errdetails.RetryInfo {
	for _, detail := range s.Details() {
		if info, ok := detail.(*errdetails.RetryInfo); ok {
			return info
		}
	}
	return nil
}
